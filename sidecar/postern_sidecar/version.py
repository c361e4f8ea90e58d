"""The version of this distribution, as the metadata has it."""

from importlib import metadata

try:
    VERSION = metadata.version("postern")
except metadata.PackageNotFoundError:  # a source tree on the path, not installed
    VERSION = "0+source"
