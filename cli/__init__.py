"""The `understudy` command: one module a verb, light to import; the work is imported inside the verb."""
