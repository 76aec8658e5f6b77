"""d90 in other libraries' forms: a method of peft, a module for the transformers Trainer, a plain LoRA adapter."""
