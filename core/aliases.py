"""Other frameworks' configuration keys, and what to write here instead."""

# Their key: ours, with its table where more than one has a key of that name.
ALIASES = {
    # model: transformers' older configs, nanoGPT, litgpt, torchtitan
    "num_layers": "num_hidden_layers",
    "n_layer": "num_hidden_layers",
    "n_layers": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_heads": "num_attention_heads",
    "num_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "num_kv_heads": "num_key_value_heads",
    "n_query_groups": "num_key_value_heads",
    "n_embd": "hidden_size",
    "dim": "hidden_size",
    "d_model": "hidden_size",
    "embed_dim": "hidden_size",
    "ffn_dim": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "rope_base": "rope_theta",
    "padded_vocab_size": "vocab_size",
    "weight_tying": "tie_word_embeddings",
    # data
    "max_seq_len": "sequence_length",
    "max_seq_length": "sequence_length",
    "block_size": "sequence_length",
    "seq_len": "sequence_length",
    "max_length": "sequence_length",
    # training
    "lr": "learning_rate",
    "max_lr": "learning_rate",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "steps": "max_steps",
    "max_iters": "max_steps",
    "per_device_train_batch_size": "batch_size",
    "global_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulation_steps",
    "accumulate_grad_batches": "accumulation_steps",
    "max_grad_norm": "grad_clip",
    "max_norm": "grad_clip",
    "clip_grad": "grad_clip",
    "clip_grad_norm": "grad_clip",
    "gradient_clip_val": "grad_clip",
    "gradient_clipping": "grad_clip",
    "adam_beta1": "beta1",
    "adam_beta2": "beta2",
    "adam_epsilon": "eps",
    "torch_dtype": "dtype",
    "precision": "dtype",
    "mixed_precision_param": "dtype",
    "bf16": "dtype",
    "fp16": "dtype",
    "gradient_checkpointing": "activation_checkpointing",
    # schedule
    "lr_scheduler_type": "type",
    "decay_type": "type",
    "warmup": "warmup_steps",
    "num_warmup_steps": "warmup_steps",
    "lr_warmup_steps": "warmup_steps",
    "min_lr_factor": "min_ratio",
    # checkpoint, validation
    "save_steps": "checkpoint.every_steps",
    "save_interval": "checkpoint.every_steps",
    "interval": "checkpoint.every_steps",
    "eval_steps": "validation.every_steps",
    "eval_interval": "validation.every_steps",
    "save_total_limit": "keep_last",
    "keep_latest_k": "keep_last",
    # lora, qlora
    "r": "rank",
    "lora_r": "rank",
    "lora_rank": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_target_modules": "target_modules",
    "double_quant": "double_quantization",
    "bnb_4bit_use_double_quant": "double_quantization",
    "use_double_quant": "double_quantization",
}

# Their table: ours.
TABLE_ALIASES = {"optimizer": "training", "lr_scheduler": "schedule"}

_METHOD = "there is no key for it: `andon finetune qlora` quantizes the base model, `andon finetune lora` does not"
_MICRO_BATCH = "a micro-batch has training.batch_size / training.accumulation_steps sequences; set these two"
_WIDTH = "set model.intermediate_size to the feed-forward width itself"
_SHAPE = "a shape has no name here: give hidden_size, num_hidden_layers and the other keys of [model] themselves"
# Their keys without one here: what to do instead.
ADVICE = {
    "quantize_base": _METHOD,
    "load_in_4bit": _METHOD,
    "local_batch_size": _MICRO_BATCH,
    "micro_batch_size": _MICRO_BATCH,
    "flavor": _SHAPE,
    "multiple_of": _WIDTH,
    "ffn_dim_multiplier": _WIDTH,
}
