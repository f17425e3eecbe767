# noqa: INP001 - Python finds it by its folder
"""Python runs this when it starts, in each process of a watched command: it waits for torch, and then watches.

Without torch nothing is imported. Another `sitecustomize`, which this one hides, is run as if this were not here.
"""

import importlib.util
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib costs each process that is started


class _Torch:
    """Finds torch as it would be found, and begins to watch once it is loaded.

    Libraries ask whether there is a torch before anybody imports it: it waits on until one is loaded.
    """

    asking = False

    def find_spec(self, name, path=None, target=None):  # noqa: ANN001, ANN202, ARG002 - as Python calls it
        """None for all but torch."""
        if name != "torch" or self.asking:
            return None
        self.asking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.asking = False
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_watch(module):  # noqa: ANN001, ANN202
            load(module)
            if self not in sys.meta_path:
                return
            sys.meta_path.remove(self)
            try:
                _watch()
            except Exception as error:  # noqa: BLE001 - whatever we lack here, the script goes on as it would alone
                sys.stderr.write(f"andon: cannot watch this process: {type(error).__name__}: {error}\n")

        spec.loader.exec_module = load_and_watch
        return spec


def _watch():  # noqa: ANN202
    """Import our package from where it lies, without its folder on the path, and begin."""
    options = json.loads(os.environ["ANDON_DOOR"])
    if "andon" not in sys.modules:
        root = options["package"]
        spec = importlib.util.spec_from_file_location(
            "andon",
            os.path.join(root, "__init__.py"),  # noqa: PTH118
            submodule_search_locations=[root],
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules["andon"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["andon"])
    if "trace" in options:
        from andon.door.traced import begin
    else:
        from andon.door.observe import begin

    begin(options)


def _run_the_hidden_one():  # noqa: ANN202
    sys.path[:] = [each for each in sys.path if os.path.abspath(each) != HERE]  # noqa: PTH100
    own = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        if own is not None:
            sys.modules.setdefault("sitecustomize", own)


if "ANDON_DOOR" in os.environ:
    sys.meta_path.insert(0, _Torch())
_run_the_hidden_one()
