"""LeRobotDataset v3.0 on disk, written and read by our own code on pyarrow and PyAV."""

from visuomotor.data.lerobot.dataset import Dataset
from visuomotor.data.lerobot.layout import DataError
from visuomotor.data.lerobot.video import encode_video
from visuomotor.data.lerobot.writer import DatasetWriter

__all__ = ["DataError", "Dataset", "DatasetWriter", "encode_video"]
