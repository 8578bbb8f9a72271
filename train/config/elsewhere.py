"""What settings are called elsewhere, and what one who typed such a name, or misspelled one of ours, may have meant."""

from collections.abc import Mapping

from fxformer.lookup import close, elsewhere, meant
from fxformer.zoo.elsewhere import ELSEWHERE as ARGUMENTS

ELSEWHERE = {
    **{name: theirs for name, theirs in ARGUMENTS.items() if name != "vocab"},
    "path": "dataset data_path data_dir dataset_name train_file text corpus input_file",
    "tokenizer": "tokenizer_name tokenizer_path tokeniser encoding vocab_size n_vocab vocab",
    "batch": "batch_size micro_batch_size per_device_train_batch_size train_batch_size global_batch_size bs",
    "validation": "eval_iters eval_size val_size eval_batches validation_size eval_steps",
    "objective": "loss task_type pretraining_objective loss_fn criterion",
    "steps": "max_steps max_iters num_steps total_steps train_steps iterations n_steps epochs num_epochs "
    "num_train_epochs n_epochs",
    "seed": "random_seed rng_seed manual_seed",
    "optimizer": "optim optimiser optimizer_type optimizer_name opt",
    "schedule": "lr_scheduler lr_scheduler_type scheduler lr_schedule decay_lr lr_decay_style",
    "lr": "learning_rate peak_lr max_lr lr_max base_lr eta step_size learning_rates rate",
    "warmup": "warmup_steps warmup_iters num_warmup_steps warmup_ratio lr_warmup warm_up",
    "final": "min_lr lr_min end_lr min_lr_ratio final_lr lr_end eta_min",
    "weight_decay": "wd decay l2",
    "beta1": "adam_beta1 betas b1 momentum",
    "beta2": "adam_beta2 betas b2",
    "eps": "epsilon adam_epsilon adam_eps",
    "clip": "grad_clip max_grad_norm gradient_clip_val clip_grad clip_grad_norm gradient_clipping grad_norm_clip",
    "z_loss": "z_loss_weight z_loss_coef z_loss_coeff",
    "balance": "router_aux_loss_coef aux_loss_coef aux_loss_weight load_balancing_loss_coef moe_aux_loss_coeff",
    "router_z": "router_z_loss_coef router_z_loss moe_z_loss_coeff",
    "mtp": "mtp_loss_weight multi_token_prediction num_nextn_predict_layers",
    "accumulate": "gradient_accumulation_steps grad_accum accumulation_steps accumulate_grad_batches grad_accum_steps",
    "dtype": "precision mixed_precision compute_dtype torch_dtype bf16 fp16",
    "out": "out_dir output_dir save_dir log_dir logdir run_dir workdir",
    "mesh": "devices num_devices device_mesh gpus world_size n_gpu",
    "remat": "gradient_checkpointing activation_checkpointing checkpoint_activations recompute recompute_activations",
    "rules": "sharding fsdp strategy parallelism partition_rules",
    "save_every": "save_steps save_interval checkpoint_every checkpoint_interval ckpt_every",
    "keep": "save_total_limit max_to_keep keep_checkpoints keep_last",
    "tracker": "report_to log_with logger use_wandb wandb_log loggers",
    "log_every": "logging_steps log_interval print_every log_steps",
}  # fmt: skip
NOTES = {  # where ours is not the same number as theirs
    **dict.fromkeys(("vocab_size", "n_vocab", "vocab"), "which brings its vocabulary"),
    "min_lr": "a share of lr", "lr_min": "a share of lr", "end_lr": "a share of lr", "final_lr": "a share of lr",
    "lr_end": "a share of lr", "eta_min": "a share of lr", "warmup_ratio": "in steps", "epochs": "in steps",
    "num_epochs": "in steps", "num_train_epochs": "in steps", "n_epochs": "in steps",
}  # fmt: skip


def hint(name: str, names: Mapping[str, tuple[str, str]]) -> str:
    """What to write in place of a name that is no setting. names: (section, key) of each flat or dotted name."""
    _, _, key = name.rpartition(".")
    if key in names:
        return meant([".".join(names[key])])
    theirs = elsewhere(ELSEWHERE, key)
    note = NOTES.get(key.lower().replace("-", "_"))
    if theirs and note is not None:
        return f"{meant(theirs).removesuffix('?')}, {note}?"
    flat = [each for each in names if "." not in each]
    return meant(theirs or close(flat, key)) or "python -m train settings prints all of them"
