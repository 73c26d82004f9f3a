"""How the interpreter that runs this is called where it runs: for commands people are to type."""

import os
import shutil
import sys
from pathlib import Path


def python() -> str:
    """`python` or `python3` where that is this one, else its path, as short as it can be pasted."""
    here = Path(sys.executable)
    for name in ("python", "python3"):
        found = shutil.which(name)
        # By folder: the files of all environments are links to one.
        if found and here.parent.exists() and os.path.samefile(Path(found).parent, here.parent):
            return name
    path = str(here)
    if here.is_relative_to(Path.cwd()):
        path = str(here.relative_to(Path.cwd()))
        path = path if os.sep in path else os.path.join(os.curdir, path)
    return f'"{path}"' if " " in path else path
