"""What preflight asks the engines: each exam is a process that loads one, as a role of the run would."""
