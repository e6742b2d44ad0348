// The page of `probe serve`: two texts side by side as they come, and a text that is pasted, with its tokens shaded.
// Whatever a model says is set as text, never as HTML.

const at = (id) => document.getElementById(id);
const TABS = ["write", "score"];
let model, underway;

function say(text, isFault = false) {
  at("status").textContent = text;
  at("status").classList.toggle("fault", isFault);
}

async function call(path, body, signal) {
  const key = sessionStorage.getItem("key");
  const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  if (answer.ok) return answer;
  if (answer.status === 401) at("token").hidden = false;
  const found = await answer.json().catch(() => null);
  throw new Error(found?.error?.message ?? `The server answered ${answer.status}.`);
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let waiting = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const whole = (waiting + value).split("\n\n");
    waiting = whole.pop();
    for (const one of whole) if (one.startsWith("data: {")) yield JSON.parse(one.slice(6));
  }
}

async function stream(id, body, signal) {
  const box = at(id);
  box.textContent = at(`${id}-note`).textContent = "";
  box.setAttribute("aria-busy", "true");
  try {
    let end;
    const answer = await call("/v1/chat/completions", { ...body, stream: true, stream_options: { include_usage: true } }, signal);
    for await (const event of events(answer)) {
      if (event.error) throw new Error(event.error.message);
      box.append(event.choices[0]?.delta.content ?? "");
      end = event.choices[0]?.finish_reason ?? end;
      if (event.usage) at(`${id}-note`).textContent = `${event.usage.completion_tokens} tokens, ${ENDS[end]}`;
    }
    return box.textContent;
  } finally {
    box.removeAttribute("aria-busy");
  }
}
const ENDS = { stop: "ended by itself", length: "cut at the length limit" };

function shade(id, tokens, midpoint) {
  const reach = Math.max(...tokens.map((token) => Math.abs(token.cosine - midpoint)), 1e-9);
  at(id).replaceChildren(
    ...tokens.map((token) => {
      const span = document.createElement("span");
      span.textContent = token.text;
      span.title = `cosine ${token.cosine.toFixed(3)}`;
      span.className = token.cosine > midpoint ? "more" : "less";
      span.style.setProperty("--share", Math.abs(token.cosine - midpoint) / reach);
      return span;
    }),
  );
  at("middle").textContent = `middle ${midpoint.toFixed(3)}`;
  at("legend").hidden = false;
}

async function score(texts, prompt, signal) {
  const asked = { texts, tokens: true, ...(prompt && { prompt }) };
  return (await call("/score", asked, signal)).json();
}

function inWords(found, one) {
  const place = one.percentile === null ? "" : `, above ${one.percentile.toFixed(0)} % of the training texts`;
  return `score ${one.score?.toFixed(4) ?? "-"} by ${found.run}${place}${one.truncated ? ", cut at the model's limit" : ""}`;
}

async function write() {
  underway?.abort();
  const { signal } = (underway = new AbortController());
  const strength = Number(at("strength").value);
  const steering = { strength, strength_unit: "dose", direction: at("direction").value };
  if (at("layer").value) steering.layer = Number(at("layer").value);
  const messages = [{ role: "user", content: at("prompt").value }];
  const body = { model: model.id, messages, max_tokens: Number(at("length").value), seed: Number(at("seed").value) };
  at("steered-head").textContent = `Steered, ${at("shown").textContent}`;
  at("stop").disabled = false;
  at("legend").hidden = true;
  say("Writing ...");
  try {
    const arms = [stream("plain", { ...body, strength: 0 }, signal), stream("steered", { ...body, ...steering }, signal)];
    const texts = await Promise.all(arms);
    say("Scoring ...");
    const ids = ["plain", "steered"].filter((_, i) => texts[i]);
    const found = ids.length && (await score(texts.filter(Boolean), at("prompt").value, signal));
    ids.forEach((id, i) => {
      shade(id, found.data[i].tokens, found.midpoint);
      at(`${id}-note`).textContent += `, ${inWords(found, found.data[i])}`;
    });
    say("Done.");
  } catch (error) {
    if (!signal.aborted) underway.abort(); // the other one need not be finished
    say(error.name === "AbortError" ? "Stopped." : error.message, error.name !== "AbortError");
  } finally {
    if (underway.signal === signal) at("stop").disabled = true;
  }
}

async function read() {
  say("Scoring ...");
  try {
    const found = await score([at("text").value], at("asked").value);
    shade("scored", found.data[0].tokens, found.midpoint);
    at("scored-note").textContent = [inWords(found, found.data[0]), found.no_percentile].filter(Boolean).join("; no percentile: ");
    say("Done.");
  } catch (error) {
    say(error.message, true);
  }
}

function show(name) {
  for (const tab of TABS) {
    const chosen = tab === name;
    at(tab).hidden = !chosen;
    at(`tab-${tab}`).setAttribute("aria-selected", String(chosen));
    at(`tab-${tab}`).tabIndex = chosen ? 0 : -1;
  }
  at("legend").hidden = true;
  say("");
}

function options(select, values) {
  select.replaceChildren(...values.map(([value, text]) => new Option(text, value)));
}

function layers() {
  const { name, layers } = model.directions.find((one) => one.name === at("direction").value);
  const usual = name === model.steering.direction ? `as served: ${model.steering.layer}` : "as recommended";
  options(at("layer"), [["", usual], ...layers.map((layer) => [layer, layer])]);
}

function slide() {
  const value = Number(at("strength").value);
  at("shown").textContent = value ? `${value > 0 ? "+" : "−"}${Math.abs(value)} dose${Math.abs(value) === 1 ? "" : "s"}` : "0";
}

async function begin() {
  try {
    [model] = (await (await call("/v1/models")).json()).data;
  } catch (error) {
    return say(error.message, true);
  }
  at("token").hidden = true;
  at("served").textContent = [model.id, model.concept].filter(Boolean).join(", ");
  document.title = `probe: ${model.concept ?? model.id}`;
  options(at("direction"), model.directions.map(({ name }) => [name, name]));
  at("direction").value = model.steering.direction ?? model.directions[0].name;
  at("which").hidden = model.directions.length === 1;
  at("length").max = model.max_tokens;
  layers();
  slide();
  say("");
}

for (const [form, work] of [["ask", write], ["read", read]]) {
  at(form).addEventListener("submit", (event) => (event.preventDefault(), model && work()));
  at(form).addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at(form).requestSubmit();
  });
}
at("token").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", at("key").value);
  begin();
});
at("stop").addEventListener("click", () => underway?.abort());
at("strength").addEventListener("input", slide);
at("direction").addEventListener("change", layers);
for (const tab of TABS) {
  at(`tab-${tab}`).addEventListener("click", () => show(tab));
  at(`tab-${tab}`).addEventListener("keydown", (event) => {
    if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    const other = TABS[(TABS.indexOf(tab) + 1) % TABS.length];
    show(other);
    at(`tab-${other}`).focus();
  });
}
begin();
