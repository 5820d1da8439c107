"""Where the console scripts of earlier installations start; see `vivim_runtime.commands.entry`."""

from vivim_runtime.commands.entry import bench as bench
from vivim_runtime.commands.entry import calibrate as calibrate
from vivim_runtime.commands.entry import doctor as doctor
from vivim_runtime.commands.entry import evaluate as evaluate
from vivim_runtime.commands.entry import export as export
from vivim_runtime.commands.entry import run as run
from vivim_runtime.commands.entry import train as train
