"""pykeen's pipeline on a made-up knowledge graph."""

import numpy as np
from pykeen.pipeline import pipeline
from pykeen.triples import TriplesFactory

chance = np.random.default_rng(0)
triples = np.unique(
    [[f"e{head}", f"r{kind}", f"e{(head + kind + 1) % 40}"] for head, kind in chance.integers((40, 4), size=(400, 2))],
    axis=0,
)
train, test = TriplesFactory.from_labeled_triples(triples).split([0.8, 0.2], random_state=0)
pipeline(
    training=train, testing=test, model="TransE", model_kwargs={"embedding_dim": 16}, random_seed=0, device="cpu",
    training_kwargs={"num_epochs": 20, "batch_size": 32, "use_tqdm": False}, evaluation_kwargs={"use_tqdm": False},
)  # fmt: skip
