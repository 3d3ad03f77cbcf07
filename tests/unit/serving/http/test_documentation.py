"""/openapi.json and /docs: every route, every status that occurs, one form of errors."""

import httpx
import pytest
from fastapi import FastAPI

from docs.scripts.http_api import own_app
from serving.http.documentation import documentation_page, openapi_schema


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return own_app()


async def test_the_schema_and_the_page_are_served(app: FastAPI) -> None:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        schema = (await http.get("/openapi.json")).json()
        page = await http.get("/docs")
    assert schema["openapi"].startswith("3.1")
    assert "<script" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    for path in schema["paths"]:
        assert f" {path}</code>" in page.text


def test_an_operation_has_its_statuses_and_security(app: FastAPI) -> None:
    paths = openapi_schema(app)["paths"]
    vote = paths["/v1/feedback"]["post"]
    statuses = {200, 201, 400, 401, 403, 404, 405, 408, 409, 410, 413, 414, 415, 429, 431, 500, 503}
    assert {int(status) for status in vote["responses"]} == statuses
    assert vote["security"] == [{"key": []}]
    assert "security" not in paths["/livez"]["get"]
    assert "401" not in paths["/livez"]["get"]["responses"]
    assert "503" in paths["/livez"]["get"]["responses"]
    assert "409" in paths["/v1/policies/{version}/activate"]["post"]["responses"]


def test_every_error_has_our_form(app: FastAPI) -> None:
    for path, operations in openapi_schema(app)["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    schema = response["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/Error"}, path


def test_the_page_escapes_what_it_shows() -> None:
    operation = {"summary": "<b>", "responses": {"200": {}}}
    assert "<b>" not in documentation_page({"paths": {"/v1/me": {"get": operation}}})


def test_without_keys_no_operation_asks_for_one(app: FastAPI) -> None:
    paths = openapi_schema(app, keys_required=False)["paths"]
    assert all("security" not in o for operations in paths.values() for o in operations.values())


def test_parameters_have_their_bounds(app: FastAPI) -> None:
    found = {
        (path, parameter["name"]): parameter["schema"]
        for path, operations in openapi_schema(app)["paths"].items()
        for operation in operations.values()
        for parameter in operation.get("parameters", ())
    }
    assert found["/v1/feedback", "limit"] == {"type": "integer", "minimum": 1, "maximum": 100}
    assert found["/v1/audit", "limit"] == {"type": "integer", "minimum": 1, "maximum": 1000}
    key = {"type": "string", "minLength": 1, "maxLength": 255}
    assert found["/v1/feedback", "Idempotency-Key"] == key


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/feedback", {"GET", "POST"}),
        ("/v1/feedback/fb-1", {"GET", "DELETE"}),
        ("/v1/policies/hold", {"POST"}),
    ],
)
async def test_405_names_all_methods_of_the_path(
    app: FastAPI, path: str, methods: set[str]
) -> None:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        response = await http.put(path)
    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) - {"HEAD"} == methods
    assert response.json()["error"]["code"] == "method_not_allowed"
