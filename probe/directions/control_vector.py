"""A direction for llama.cpp and for EasySteer: a GGUF file with a vector for each block, added to its output.

Both number tensors `direction.N` by the 0-based block whose output they are added to, which is our layer; llama.cpp has no
place for block 0 (it keeps direction.N at (N - 1) x width).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter
from torch import Tensor

from probe.errors import ProbeError
from probe.files import atomic_write

ARCHITECTURE = "controlvector"


def write_control_vector(vectors: Mapping[int, Tensor], model_type: str, path: Path) -> None:
    """Writes vectors `[D]` by block, and reads them back.

    Args:
        vectors: What is added, at scale 1.
        model_type: Of the model, as transformers names it; llama.cpp and others want to know it.
        path: The file.

    Raises:
        ProbeError: where the file that was written does not hold the vectors.
    """

    def write(partial: Path) -> None:
        writer = GGUFWriter(partial, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", model_type)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vectors))
        for layer, vector in vectors.items():
            writer.add_tensor(f"direction.{layer}", vector.float().cpu().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    atomic_write(path, write)
    held = {tensor.name: np.array(tensor.data) for tensor in GGUFReader(path).tensors}
    wrong = [
        k for k, v in vectors.items() if not np.array_equal(held.get(f"direction.{k}", []), v.float().cpu().numpy())
    ]
    if wrong or len(held) != len(vectors):
        raise ProbeError(f"{path}: expected the vectors that were written, found others at {wrong}; write it again.")
