"""Checks of what more a subject gives: other forms of its model, data, text, quantisers, schedules."""

from andon.verify.checks import (
    configuration,
    data,
    generation,
    gradients,
    packing,
    quantisation,
    reference,
    schedule,
    text,
)
from andon.verify.checks.table import Check

OF_PARTS = (
    # ------------------------------------------------------------- of what more the subject says of its model
    Check("packing.packed", packing.check_packed, ("pack",)),
    Check("packing.padded", packing.check_padded, ("pad",)),
    Check("packing.conservation", packing.check_conservation),
    Check("packing.borders", packing.check_borders),
    Check("generation.decode", generation.check_decode, ("decode",)),
    Check("generation.greedy", generation.check_greedy, ("generate",)),
    Check("configuration.sensitivity", configuration.check_sensitivity, ("configure", "configuration")),
    Check("configuration.norms", configuration.check_norms, ("configure", "configuration")),
    Check("configuration.caps", configuration.check_caps, ("configure", "configuration")),
    Check("configuration.spread", configuration.check_spread, ("configure", "configuration")),
    Check("reference.logits", reference.check_logits, ("reference",)),
    Check("reference.loss", reference.check_loss, ("reference",)),
    Check("reference.gradients", reference.check_gradients, ("reference",)),
    # ------------------------------------------------------------------------------------------ of its data
    Check("data.targets", data.check_targets),
    Check("data.padding", data.check_padding),
    Check("data.epochs", data.check_epochs, ("epoch",)),
    Check("data.held_out", data.check_held_out, ("epoch", "held_out")),
    Check("text.round_trip", text.check_round_trip, ("encode", "text")),
    Check("text.marks", text.check_marks, ("encode",)),
    Check("text.instruction", text.check_instruction, ("instruct",)),
    # ---------------------------------------------------------------------------------------- gradients.py
    Check("gradients.parameters", gradients.check_parameters, tier=2),
    Check("gradients.inputs", gradients.check_inputs, tier=2),
    # ------------------------------------------------------------------------------------ of quantisers, schedules
    Check("quantisation.noise", quantisation.check_noise, ("quantiser",)),
    Check("quantisation.levels", quantisation.check_levels, ("quantiser",)),
    Check("quantisation.ragged", quantisation.check_ragged, ("quantiser",)),
    Check("quantisation.circumstances", quantisation.check_circumstances, ("quantiser",)),
    Check("quantisation.order", quantisation.check_order, ("quantiser",)),
    Check("quantisation.zeros", quantisation.check_zeros, ("quantiser",)),
    Check("quantisation.outlier", quantisation.check_outlier, ("quantiser",)),
    Check("quantisation.scale", quantisation.check_scale, ("quantiser",)),
    Check("quantisation.again", quantisation.check_again, ("quantiser",)),
    Check("schedule.pure", schedule.check_pure, ("rate",)),
    Check("schedule.start", schedule.check_start, tier=2),
    Check("schedule.warmup", schedule.check_warmup, tier=2),
    Check("schedule.peak", schedule.check_peak, tier=2),
    Check("schedule.decline", schedule.check_decline, tier=2),
    Check("schedule.state", schedule.check_state, ("schedule",), tier=2),
)
