"""clock.c from the test's side: how wrong the wall clock is."""

import pathlib
import subprocess

HERE = pathlib.Path(__file__).resolve().parent


class Clock:
    """The wall clock of whoever has its environment."""

    def __init__(self, where):
        self.library, self.file = where / "clock.so", where / "clock-offset"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", self.library, HERE / "clock.c", "-ldl"], check=True)
        self.set(0)

    def set(self, offset_s):
        with open(self.file, "r+b" if self.file.exists() else "wb") as file:
            file.write(offset_s.to_bytes(8, "little", signed=True))

    def environment(self):
        return {"LD_PRELOAD": str(self.library), "CLOCK_OFFSET": str(self.file)}
