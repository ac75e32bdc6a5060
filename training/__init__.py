"""Training the prompt extractor with GRPO: what it is shown, who judges its answers, the trainer, the logs.

TRL and datasets are an extra (requirements-train.txt): they are imported inside functions here, and nowhere
else.
"""
