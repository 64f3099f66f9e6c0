"""The verifier pool: responses are graded in processes of their own, within limits of time and memory."""
