"""Makes a bucket, waiting until the server takes writes: ENDPOINT BUCKET KEY SECRET."""
import sys
import time

import boto3
from botocore.config import Config

endpoint, bucket, key, secret = sys.argv[1:]
client = boto3.client(
    "s3", endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1",
    config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
)
deadline = time.monotonic() + 60
while True:
    try:
        client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key="ready", Body=b"1")
        client.delete_object(Bucket=bucket, Key="ready")
        break
    except Exception as error:  # the server is starting
        if time.monotonic() > deadline:
            raise SystemExit(f"no bucket: {error}")
        time.sleep(0.3)
