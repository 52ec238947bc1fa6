"""What pyproject.toml cannot say: the JSON files on top are installed beside the modules that read them."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copy the configs as well; an editable install reads those of the clone."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for path in sorted(Path(__file__).parent.glob("*.json")):
                self.copy_file(str(path), str(Path(self.build_lib) / path.name))


setup(cmdclass={"build_py": BuildWithConfigs})
