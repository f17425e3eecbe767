"""pycox's Cox model on made-up survival times, trained by torchtuples."""

import numpy as np
import torch
import torchtuples
from pycox.models import CoxPH

torch.manual_seed(0)
chance = np.random.default_rng(0)
features = chance.normal(size=(400, 6)).astype("float32")
times = chance.exponential(np.exp(-features[:, 0])).astype("float32")
seen = (chance.random(400) < 0.7).astype("float32")
network = torchtuples.practical.MLPVanilla(6, [16, 16], 1, batch_norm=True, dropout=0.1, output_bias=False)
model = CoxPH(network, torchtuples.optim.Adam(0.01))
held_out = features[320:], (times[320:], seen[320:])
model.fit(features[:320], (times[:320], seen[:320]), batch_size=32, epochs=8, val_data=held_out, verbose=False)
