"""pytorch-forecasting's N-BEATS on made-up series, trained by lightning."""

import lightning
import numpy as np
import pandas as pd
from pytorch_forecasting import NBeats, TimeSeriesDataSet

lightning.seed_everything(0)
times = np.arange(120)
series = [np.sin(times / (4 + kind)) + 0.1 * np.random.randn(120) for kind in range(6)]
parts = [pd.DataFrame({"series": str(at), "time": times, "value": each}) for at, each in enumerate(series)]
frame = pd.concat(parts, ignore_index=True)
data = TimeSeriesDataSet(
    frame, time_idx="time", target="value", group_ids=["series"], max_encoder_length=24, max_prediction_length=6,
    time_varying_unknown_reals=["value"],
)  # fmt: skip
model = NBeats.from_dataset(data, learning_rate=1e-3, widths=[16, 16], num_blocks=[1, 1], log_interval=-1)
trainer = lightning.Trainer(
    max_steps=40, accelerator="cpu", logger=False, enable_progress_bar=False, gradient_clip_val=0.1,
    enable_checkpointing=False,
)  # fmt: skip
trainer.fit(model, data.to_dataloader(train=True, batch_size=32, num_workers=0))
