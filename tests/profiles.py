"""A colour profile that nobody can overlook."""

import struct

from PIL import ImageCms


def swapped_profile() -> bytes:
    """Make a profile in which red and green change places, by exchanging two tags of sRGB's."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", profile[128:132])[0]
    for index in range(count):
        at = 132 + 12 * index
        name = bytes(profile[at : at + 4])
        profile[at : at + 4] = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}.get(name, name)
    at = profile.find("sRGB".encode("utf-16-be"))
    profile[at : at + 8] = "ours".encode("utf-16-be")
    return bytes(profile)
