"""Build one profile's package of pictures: of their pixels first, then with the way to them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from converters.build import build_package
from converters.errors import ConversionError
from converters.front_timing import add_front
from converters.image_package import take_pictures
from converters.picture_requests import find_room
from converters.request import BuiltPackage
from device_profiles.profile import DeviceProfile
from edge_agent.contract.image import ImageInput
from fleet_server.errors import RefusedError
from fleet_server.training.picture_network import PictureNetwork
from fleet_server.training.records import SourceModel
from fleet_server.training.shipped import make_request
from fleet_server.training.spec import ProfileLimit


def build_pictures_for_profile(
    source: SourceModel,
    image: ImageInput,
    profile: DeviceProfile,
    limit: ProfileLimit,
    context: Mapping[str, Any],
) -> BuiltPackage:
    """Convert, quantize, check and pack a model of pixels as one of pictures.

    Args:
        source: Fitted on rows of pixels; its held-out pictures are what every figure and the
            reference are from.
        image: What the graph does to a picture.
        profile: What it is built for.
        limit: What the spec asks for this profile; holds for the package of pictures.
        context: Stored in evidence.json.

    Raises:
        RefusedError: No faithful graph, or none that fits the profile.
    """
    pictures = source.test.pictures
    if pictures is None:
        raise ValueError("the rows were made of no pictures")
    bytes_max = min(profile.package_bytes_max, limit.package_bytes_max or profile.package_bytes_max)
    try:
        # Golden rows of pixels are larger than the golden pictures they become.
        room = find_room(image, pictures, source.schema.width)
        inner = replace(profile, package_bytes_max=max(1, bytes_max + room))
        given = source.estimator
        request = make_request(
            given.module if isinstance(given, PictureNetwork) else given,
            source.schema,
            inner,
            replace(limit, package_bytes_max=None),
            source.train,
            source.test,
            primary=source.spec.primary,
            context=context,
        )
        request = replace(request, plan=add_front(request.plan, pictures, image, profile))
        built = build_package(request)
        trained_on = None if source.train.pictures is None else source.train.pictures.figures
        return take_pictures(
            *(built, image, pictures, replace(profile, package_bytes_max=bytes_max)),
            trained_on=trained_on,
        )
    except ConversionError as error:
        raise RefusedError(f"{profile.id}: {error}") from error
