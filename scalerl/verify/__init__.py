"""Verifiers: math answers, each within a time limit, in processes of their own; programs in a sandbox."""
