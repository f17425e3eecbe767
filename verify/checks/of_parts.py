"""Checks of what more a subject gives: other forms of its model, data, text, quantizers, schedules."""

from andon.verify.checks import (
    configuration,
    data,
    generation,
    gradients,
    packing,
    quantization,
    reference,
    schedule,
    text,
)
from andon.verify.checks.table import Check

OF_PARTS = (
    # ------------------------------------------------------------- of what more the subject says of its model
    Check("packing.packed", packing.check_packed, ("collate_packed",)),
    Check("packing.padded", packing.check_padded, ("collate_padded",)),
    Check("packing.conservation", packing.check_conservation),
    Check("packing.borders", packing.check_borders),
    Check("generation.decode", generation.check_decode, ("cached_logits",)),
    Check("generation.greedy", generation.check_greedy, ("generate",)),
    Check("configuration.sensitivity", configuration.check_sensitivity, ("configure", "config_alternatives")),
    Check("configuration.norms", configuration.check_norms, ("configure", "config_alternatives")),
    Check("configuration.caps", configuration.check_caps, ("configure", "config_alternatives")),
    Check("configuration.spread", configuration.check_spread, ("configure", "config_alternatives")),
    Check("reference.logits", reference.check_logits, ("reference_logits",)),
    Check("reference.loss", reference.check_loss, ("reference_logits",)),
    Check("reference.gradients", reference.check_gradients, ("reference_logits",)),
    # ------------------------------------------------------------------------------------------ of its data
    Check("data.targets", data.check_targets),
    Check("data.padding", data.check_padding),
    Check("data.epochs", data.check_epochs, ("epoch_batches",)),
    Check("data.held_out", data.check_held_out, ("epoch_batches", "validation_batches")),
    Check("text.round_trip", text.check_round_trip, ("encode", "decode")),
    Check("text.marks", text.check_marks, ("encode",)),
    Check("text.instruction", text.check_instruction, ("encode_instruction",)),
    # ---------------------------------------------------------------------------------------- gradients.py
    Check("gradients.parameters", gradients.check_parameters, tier=2),
    Check("gradients.inputs", gradients.check_inputs, tier=2),
    # ------------------------------------------------------------------------------------ of quantizers, schedules
    Check("quantization.noise", quantization.check_noise, ("quantizer",)),
    Check("quantization.levels", quantization.check_levels, ("quantizer",)),
    Check("quantization.ragged", quantization.check_ragged, ("quantizer",)),
    Check("quantization.circumstances", quantization.check_circumstances, ("quantizer",)),
    Check("quantization.order", quantization.check_order, ("quantizer",)),
    Check("quantization.zeros", quantization.check_zeros, ("quantizer",)),
    Check("quantization.outlier", quantization.check_outlier, ("quantizer",)),
    Check("quantization.scale", quantization.check_scale, ("quantizer",)),
    Check("quantization.again", quantization.check_again, ("quantizer",)),
    Check("schedule.pure", schedule.check_pure, ("lr_at",)),
    Check("schedule.start", schedule.check_start, tier=2),
    Check("schedule.warmup", schedule.check_warmup, tier=2),
    Check("schedule.peak", schedule.check_peak, tier=2),
    Check("schedule.decline", schedule.check_decline, tier=2),
    Check("schedule.state", schedule.check_state, ("lr_scheduler",), tier=2),
)
