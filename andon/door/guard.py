"""What a copy of the script would leave behind ends it first: it writes, removes and sends nothing."""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

WRITERS = (  # functions that open files without Python's knowledge
    ("h5py", "File.__init__"),
    ("pyarrow.parquet", "ParquetWriter.__init__"),
    ("cv2", "imwrite"),
    ("lmdb", "open"),
    ("soundfile", "SoundFile.__init__"),
    ("torch.serialization", "_open_zipfile_writer"),
    ("torch.serialization", "_open_file_like"),
    ("safetensors.torch", "serialize_file"),
)
TOUCHES = ("os.", "shutil.", "socket.", "subprocess.", "sqlite3.", "urllib.")  # what ends a child before it happens
READS = ("os.listdir", "os.scandir", "os.walk")


def keep_out(end: Callable[[], None], is_over: Callable[[], bool]) -> None:
    """In a child: `end` it before anything is written, and where the script ends, until it `is_over`."""

    def is_about_to(event: str, args: tuple[Any, ...]) -> None:
        """Python calls this before it touches anything outside."""
        if is_over():
            return
        writes = event == "open" and isinstance(args[2], int) and bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes or (event.startswith(TOUCHES) and event not in READS):
            end()

    atexit.register(end)
    sys.dont_write_bytecode = True
    if "tqdm.std" in sys.modules:  # its lock is one for all processes
        sys.modules["tqdm.std"].tqdm.set_lock(threading.RLock())
    for module, path in WRITERS:
        kind, _, name = path.rpartition(".")
        owner = getattr(sys.modules.get(module), kind, None) if kind else sys.modules.get(module)
        if owner is not None:
            setattr(owner, name, lambda *_, **__: end())
    sys.addaudithook(is_about_to)
