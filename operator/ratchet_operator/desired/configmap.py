"""The immutable ConfigMap that carries one attempt's stage.json.

Pure; called by the plan rules that create children.
"""

from __future__ import annotations

from typing import Any

from ratchet_api.base import canonical_json
from ratchet_api.names import STAGE_FILE
from ratchet_api.stage import StageInput
from ratchet_operator.desired.child import StageRequest, check_allowed, labels_of, metadata_of, with_hash
from ratchet_operator.settings import Settings


def render_configmap(request: StageRequest, settings: Settings) -> dict[str, Any]:
    """Render the stage's input file; it is parsed once more, so that no pod starts with one it cannot read.

    Raises:
        NotAllowed: the request names an image or priority class that is not allowed.
        pydantic.ValidationError: the content does not survive its own round trip (a defect).
    """
    check_allowed(request, settings)
    text = canonical_json(request.content.to_wire()).decode()
    StageInput.model_validate_json(text)
    return with_hash(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata_of(request, labels_of(request)),
            "immutable": True,
            "data": {STAGE_FILE: text},
        }
    )
