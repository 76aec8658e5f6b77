"""d90 in other libraries' forms: peft, a plain LoRA adapter, the transformers Trainer, the hub."""
