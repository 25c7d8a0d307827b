"""What an administrator did not allow: the one check of image and priority class that runs and datasets share. Pure.

Called when a spec is accepted; `desired.child` checks once more before anything is rendered.
"""

from __future__ import annotations

from ratchet_api.conditions import Reason
from ratchet_api.placement import Placement
from ratchet_operator.settings import Settings


def not_allowed(title: str, image: str, placement: Placement, settings: Settings) -> tuple[Reason, str] | None:
    """Return the reason and the detail for which the object may not run; None = it may."""
    if not settings.image_allowed(image):
        return Reason.IMAGE_NOT_ALLOWED, f"{title}: spec.image {image!r} is not on the operator's allow-list"
    wanted = placement.priority_class_name
    if wanted is not None and wanted not in settings.allowed_priority_classes:
        detail = f"{title}: spec.placement.priorityClassName {wanted!r} is not on the operator's allow-list"
        return Reason.PRIORITY_CLASS_NOT_ALLOWED, detail
    return None
