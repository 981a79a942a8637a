"""One module per library: how its worker is started and how its client sends. README.md says what each must offer."""
