"""The verbs beside Lightning's own: one file each, which the core never imports."""
