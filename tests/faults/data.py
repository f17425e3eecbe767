"""Faults of checkpoints and resuming, of data, and of the configuration."""

from andon.verify.faults.inject import Fault

FAULTS = (
    # ------------------------------------------------------------------------------------------ resuming
    Fault(
        id="ckpt-dataloader-not-saved",
        area="resume",
        status="historical",
        source="KempnerInstitute/KempnerForge#51",
        symptom="A resumed run reads its data from the beginning again.",
        where="andon.core:_restore_counters",
        before="state.data = DataState(manifest.epoch, manifest.batch)",
        after="",
    ),
    Fault(
        id="ckpt-iteration-reset",
        area="resume",
        status="historical",
        source="huggingface/accelerate#4071",
        symptom="A run resumed within a later epoch reads the order of the first one.",
        where="andon.core:_restore_counters",
        before="state.data = DataState(manifest.epoch, manifest.batch)",
        after="state.data = DataState(0, manifest.batch)",
    ),
    Fault(
        id="ckpt-rng-order",
        area="resume",
        status="historical",
        source="huggingface/transformers#46628",
        symptom="Random numbers are restored, and then drawn from to skip what was seen.",
        where="andon.core:load_checkpoint",
        before="restore_random(generators, device)",
        after=("restore_random(generators, device)\ntorch.randperm(manifest.batch + 1)"),
        subjects=("lora", "llama"),
    ),
    Fault(
        id="ckpt-skip-permanent",
        area="resume",
        status="transposed",
        source="huggingface/accelerate#1466",
        symptom="The batches that a resume skips are skipped in every later epoch too.",
        where="andon.core:batches",
        before="return _prefetch(prepare, iter(steps), config.data.workers)",
        after=(
            "rest = (step for step in steps if step % per_epoch >= state.batch)\n"
            "return _prefetch(prepare, rest, config.data.workers)"
        ),
    ),
    Fault(
        id="ckpt-shuffle-of-shuffle",
        area="resume",
        status="historical",
        source="pytorch/torchtitan#2865",
        symptom="Each epoch shuffles the last one's order, so that a resumed run has another.",
        where="andon.core:batches",
        before="order = lru_cache(maxsize=2)(partial(epoch_order, config.training.seed, count))",
        after=(
            "held = [np.arange(count)]\n"
            "\n"
            "@lru_cache\n"
            "def order(epoch: int) -> np.ndarray:\n"
            "    held[0] = held[0][epoch_order(config.training.seed, count, epoch)]\n"
            "    return held[0]"
        ),
    ),
    Fault(
        id="ckpt-index-early",
        area="resume",
        status="historical",
        source="pytorch/torchtitan#2865",
        symptom="The position moves on before the batch is handed out: each resume loses one.",
        where="andon.core:batches",
        before="return packed, DataState(*next_position(epoch, batch, per_epoch))",
        after="return packed, DataState(*next_position(*next_position(epoch, batch, per_epoch), per_epoch))",
    ),
    Fault(
        id="ckpt-alias-not-copy",
        area="resume",
        status="pattern",
        source="",
        symptom="What is kept to go back to is a reference, and changes with what replaced it.",
        where="andon.core:_merged_linear",
        before="total_OI = torch.addmm(weight_OI.to(high), b_OR, a_RI, alpha=adapter.scale).to(weight_OI.dtype)",
        after="total_OI = weight_OI.to(high).addmm_(b_OR, a_RI, alpha=adapter.scale).to(weight_OI.dtype)",
    ),
    Fault(
        id="train-mode-lost-after-eval",
        area="resume",
        status="pattern",
        source="",
        symptom="The model stays in evaluation mode after the first validation, and dropout is off from then on.",
        where="andon.core:validate",
        before="model.train(was_training)",
        after="pass",
    ),
    Fault(
        id="eval-consumes-rng",
        area="resume",
        status="pattern",
        source="",
        symptom="Validation draws from the random numbers of training: the run depends on how often it is measured.",
        where="andon.core:validate",
        before=("for batch in held_out:\n    ..."),
        after=("torch.randperm(8)  # an order\nfor batch in held_out:\n    ..."),
    ),
    # ------------------------------------------------------------------------------------------ data
    Fault(
        id="data-pad-eq-eos",
        area="data",
        status="historical",
        source="huggingface/transformers#23530; huggingface/trl#3200, #976, #6357",
        symptom="Padding is the end token and all of it is ignored: the model never learns to stop.",
        where="andon.core:pack",
        before="within = owners[:, :-1] - owners[:, :1]",
        after=("labels[labels == pad_id] = IGNORE\nwithin = owners[:, :-1] - owners[:, :1]"),
        subjects=("llama", "packed"),
    ),
    Fault(
        id="data-double-bos",
        area="data",
        status="historical",
        source="unslothai/unsloth-zoo#959",
        symptom="Two parties each put the opening mark, and every document begins with it twice.",
        where="andon.core:_encode_documents",
        before="yield EncodedDocument([*marks.first, *ids, marks.end], len(text.encode()), text_hash(text))",
        after="yield EncodedDocument([*marks.first * 2, *ids, marks.end], len(text.encode()), text_hash(text))",
    ),
    Fault(
        id="data-prompt-mask-off-by-one",
        area="data",
        status="historical",
        source="pytorch/torchtitan#2755",
        symptom="The prompt's mask forgets that labels are shifted: an answer's first token is never learned.",
        where="andon.core:encode_turns",
        before="np.where(learned[1:], tokens[1:], IGNORE)",
        after="np.where(learned[:-1], tokens[1:], IGNORE)",
    ),
    Fault(
        id="data-pack-token-loss",
        area="data",
        status="historical",
        source="pytorch/torchtune#1697",
        symptom="A document more than twice as long as allowed loses what is beyond.",
        where="andon.core:_split_text",
        before=(
            "while len(text) - start > longest:\n"
            "    limit = start + longest\n"
            '    end = text.rfind("\\n", start, limit) + 1 or text.rfind(" ", start, limit) + 1 or limit\n'
            "    pieces.append(text[start:end])\n"
            "    start = end\n"
            "return [*pieces, text[start:]] if text else []"
        ),
        after=(
            "if len(text) - start > longest:\n"
            "    limit = start + longest\n"
            '    end = text.rfind("\\n", start, limit) + 1 or text.rfind(" ", start, limit) + 1 or limit\n'
            "    pieces.append(text[start:end])\n"
            "    start = end\n"
            "return [*pieces, text[start : start + longest]] if text else []"
        ),
    ),
    Fault(
        id="data-exact-fit-dropped",
        area="data",
        status="historical",
        source="pytorch/torchtitan#4268",
        symptom="A length is compared without the shift of labels: what fits exactly is dropped.",
        where="andon.core:window_count",
        before="return max(0, -(-(tokens - 1) // length))",
        after="return max(0, -(-(tokens - 1) // length) - (tokens % length == 1))",
        test="tests/core/test_data.py::test_a_document_that_fits_exactly_is_kept",
    ),
    Fault(
        id="data-same-order-each-epoch",
        area="data",
        status="historical",
        source="pytorch/torchtitan#3023; huggingface/accelerate#3556",
        symptom="Telling the loader the epoch has no effect: every epoch has the same order.",
        where="andon.core:batches",
        before="chosen = order(epoch)[begin:end]",
        after="chosen = order(0)[begin:end]",
    ),
    Fault(
        id="data-split-overlap",
        area="data",
        status="historical",
        source="axolotl-ai-cloud/axolotl#3627",
        symptom="Validation documents are trained on as well: the validation loss flatters.",
        where="andon.core:open_dataset",
        before="train, validation = _split(store, ~held_out_D), _split(store, held_out_D)",
        after="train, validation = _split(store, held_out_D | True), _split(store, held_out_D)",
    ),
    Fault(
        id="data-window-off-by-one",
        area="data",
        status="pattern",
        source="",
        symptom="Labels are the tokens themselves: the model learns to copy.",
        where="andon.core:pack",
        before="labels = np.where((owners[:, 1:] != owners[:, :-1]) | outside[:, 1:], IGNORE, tokens[:, 1:])",
        after="labels = np.where((owners[:, 1:] != owners[:, :-1]) | outside[:, 1:], IGNORE, tokens[:, :-1])",
        subjects=("packed", "llama"),
    ),
    Fault(
        id="data-pad-id-zero-falsy",
        area="data",
        status="historical",
        source="unslothai/unsloth-zoo#439",
        symptom="A padding id of 0 counts as none: padding is trained on.",
        where="andon.core:pack",
        before="outside = positions >= split.tokens",
        after="outside = (positions >= split.tokens) & bool(pad_id)",
    ),
    Fault(
        id="data-extra-batch-epoch",
        area="data",
        status="historical",
        source="Lightning-AI/litgpt#1794",
        symptom="The epoch's end is noticed a batch late: one batch is trained on that belongs to no epoch.",
        where="andon.core:batches",
        before=(
            "epoch, batch = divmod(step, per_epoch)\n"
            "begin, end = batch_bounds(batch, config.training.batch_size, count)"
        ),
        after=(
            "epoch, batch = divmod(step, per_epoch + 1)\n"
            "begin, end = batch_bounds(batch % per_epoch, config.training.batch_size, count)"
        ),
    ),
    # ------------------------------------------------------------------------------------------ configuration
    Fault(
        id="cfg-lr-string",
        area="configuration",
        status="historical",
        source="huggingface/trl#1450; hiyouga/LLaMA-Factory#4014; h2oai/h2o-llmstudio#699",
        symptom="A number written as text passes unnoticed, until it is compared with one.",
        where="andon.core:Table.model_config",
        before='model_config = ConfigDict(extra="forbid", strict=True, frozen=True)',
        after='model_config = ConfigDict(extra="forbid", strict=False, frozen=True)',
        test="tests/core/test_config.py::test_each_rule_of_a_key_is_refused_with_file_key_value_and_rule",
    ),
    Fault(
        id="cfg-arg-ignored",
        area="configuration",
        status="historical",
        source="bitsandbytes-foundation/bitsandbytes#1998; axolotl-ai-cloud/axolotl e2f01de0e",
        symptom="A setting is accepted and a constant used in its place.",
        where="andon.core:learning_rate",
        before="return peak * (schedule.min_ratio + (1 - schedule.min_ratio) * share)",
        after="return peak * (0.1 + (1 - 0.1) * share)",
    ),
    Fault(
        id="cfg-unknown-key-dropped",
        area="configuration",
        status="pattern",
        source="",
        symptom="A misspelled key is dropped, and the default used.",
        where="andon.core:Table.model_config",
        before='model_config = ConfigDict(extra="forbid", strict=True, frozen=True)',
        after='model_config = ConfigDict(extra="ignore", strict=True, frozen=True)',
        test="tests/core/test_config.py::test_a_misspelled_key_is_refused_with_the_nearest_one",
    ),
)
