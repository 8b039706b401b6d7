"""What a client may not do by the signatures of one table. Usage: signing_attacks.py CATALOG S3 BUCKET"""
import sys

import requests

catalog, endpoint, bucket = sys.argv[1:]
asks = {"X-Iceberg-Access-Delegation": "vended-credentials, remote-signing"}
tables = f"{catalog}/v1/namespaces"


def load(name, headers=asks):
    namespace, table = name.split(".")
    return requests.get(f"{tables}/{namespace}/tables/{table}", headers=headers).json()


def sign(method, uri, at=None, headers=None, body=None):
    asked = {"method": method, "region": "us-east-1", "uri": uri, "headers": headers or {}, "body": body}
    return requests.post(f"{catalog}/{at or own['config']['s3.signer.endpoint']}", json=asked)


def send(method, answer, uri=None, body=None, **more):
    headers = {name: ", ".join(values) for name, values in answer["headers"].items()}
    return requests.request(method, uri or answer["uri"], headers={**headers, **more}, data=body)


def address(location):
    assert location.startswith(f"s3://{bucket}/"), location
    return f"{endpoint}/{bucket}/{location.removeprefix(f's3://{bucket}/')}"


own, topic = load("own.names"), load("topics.orders")
assert own["config"]["s3.remote-signing-enabled"] == "true" and own["config"]["s3.endpoint"] == endpoint
assert load("own.names", {})["config"] == {}, "only for those who ask"
vended = load("own.names", {"X-Iceberg-Access-Delegation": "vended-credentials"})
assert vended["config"] == {}, vended["config"]
ours, theirs = address(own["metadata"]["location"]), address(topic["metadata"]["location"])
metadata = address(own["metadata-location"])
assert requests.get(metadata).status_code == 403, "the bucket wants a signature"

# A signature is good for its own request.
signed = sign("GET", metadata)
assert signed.status_code == 200 and signed.headers["Cache-Control"] == "private", signed.text
assert send("GET", signed.json()).json()["table-uuid"] == own["metadata"]["table-uuid"]
assert send("GET", signed.json(), address(topic["metadata-location"])).status_code == 403
assert send("DELETE", signed.json()).status_code == 403
assert send("GET", signed.json(), metadata + "?acl").status_code == 403

# Writing, and what lies beside.
put = sign("PUT", f"{ours}/data/x", headers={"x-amz-meta-a": ["1"]}).json()
assert send("PUT", put, body=b"x", **{"x-amz-meta-a": "1"}).status_code == 200
assert send("PUT", put, body=b"x", **{"x-amz-meta-a": "2"}).status_code == 403
copy = {"x-amz-meta-a": "1", "x-amz-copy-source": f"/{bucket}/lake/x"}
assert send("PUT", put, **copy).status_code == 403, "a header that is not signed"
assert send("GET", sign("GET", f"{ours}/data/x").json()).content == b"x"
listed = send("GET", sign("GET", f"{endpoint}/{bucket}?list-type=2&prefix={ours.split(f'/{bucket}/', 1)[1]}/data/").json())
assert listed.status_code == 200 and "data/x" in listed.text, listed.text
root = f"{endpoint}/{bucket}/lake"
for method, uri, headers in [
    ("GET", address(topic["metadata-location"]), None),
    ("GET", f"{root}/tidewater/root", None),
    ("GET", f"{ours}/../../../root", None),
    ("GET", f"{ours}/%2e%2e/x", None),
    ("GET", f"{ours}%2f..%2f..%2fx", None),
    ("GET", f"{ours}/..%252f..%252fx", None),
    ("GET", f"{endpoint}/{bucket}?list-type=2&prefix=lake/", None),
    ("GET", f"{endpoint}/{bucket}?list-type=2", None),
    ("GET", f"{endpoint}/", None),
    ("GET", f"{endpoint}/other/x", None),
    ("GET", ours.replace("127.0.0.1", "127.0.0.2") + "/x", None),
    ("PUT", f"{ours}/data/y", {"x-amz-copy-source": [f"/{bucket}/lake/x"]}),
    ("PUT", f"{ours}/data/y?acl", None),
    ("DELETE", f"{theirs}/data/x", None),
    ("POST", f"{endpoint}/{bucket}?delete", None),
]:
    answer = sign(method, uri, headers=headers)
    assert answer.status_code == 403 and answer.json()["error"]["message"].startswith("not signed: "), (uri, answer.text)

# Several objects at once: the store would take another list than the one that is signed, so none is.
key = f"{ours.split(f'/{bucket}/', 1)[1]}/data/x"
listing = f"<Delete><Object><Key>{key}</Key></Object></Delete>"
several = sign("POST", f"{endpoint}/{bucket}?delete", body=listing)
assert several.status_code == 403 and "one by one" in several.json()["error"]["message"], several.text
theirs_too = listing.replace(key, theirs.split(f"/{bucket}/", 1)[1] + "/metadata/x")
assert sign("POST", f"{endpoint}/{bucket}?delete", body=theirs_too).status_code == 403
assert send("DELETE", sign("DELETE", f"{ours}/data/x").json()).status_code == 204
assert send("GET", sign("GET", f"{ours}/data/x").json()).status_code == 404

# Clients that know the older path alone; and what is no table.
old = "v1/aws/s3/sign"
assert send("GET", sign("GET", metadata, at=old).json()).json()["table-uuid"] == own["metadata"]["table-uuid"]
assert sign("GET", f"{root}/tidewater/root", at=old).status_code == 403
assert sign("GET", metadata, at="v1/namespaces/own/tables/nothing/sign").status_code == 404
assert sign("GET", "x" * (2 << 20)).status_code == 413
print("attacks: all refused")
