"""Read the pictures of a spec: listed, judged by what they show, then unfolded one by one."""

from dataclasses import dataclass
from pathlib import Path

from device_profiles.profile import DeviceProfile
from edge_agent.contract.schema import Task
from fleet_server.ports.training import PictureReader, StepListener
from fleet_server.training.ingest import read_answers
from fleet_server.training.ingest_pictures import (
    PictureData,
    check_listed,
    make_picture_dataset,
)
from fleet_server.training.spec import PictureSection, Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPictures:
    """The use case."""

    reader: PictureReader
    listener: StepListener

    def read(
        self, spec: Spec, asked: PictureSection, folder: Path, profile: DeviceProfile, *, step: str
    ) -> PictureData:
        """Read them.

        Args:
            spec: Of pictures.
            asked: Its section of pictures.
            folder: Of the spec.
            profile: Any of the spec's; how a picture becomes numbers is the same for all.
            step: Which step of the training this is, for the listener.

        Raises:
            RefusedError: An answer is missing or wrong, or too many pictures cannot be read.
            NotFoundError: There is no such folder or table.
        """
        path = folder / spec.data.path
        is_class = spec.model.task is Task.CLASSIFICATION
        target = spec.data.target_columns
        listed = self.reader.list(
            path,
            numbers=[] if is_class else target,
            words=[*(target if is_class else []), *([asked.group] if asked.group else [])],
        )
        check_listed(spec, listed, source=path.name)
        answers = read_answers(spec, listed.answers, source=path.name)
        packed = self.reader.pack(
            listed, asked.image, profile, lambda detail: self.listener.working(step, detail)
        )
        return make_picture_dataset(spec, listed, answers, packed, source=path.name)
