"""Whether a model uses the heads that look: what they see is changed, and what the model then says is measured."""
