"""Writes the Parquet files of this folder, with pyarrow 26 and duckdb 2.0.

    python parquet.py

Each has the documents that TestParquetOthers makes: a string a row, some null,
some empty, some long.
"""
import pyarrow as pa
import pyarrow.parquet as pq

try:
    import duckdb
except ImportError:
    duckdb = None


def document(i):
    if i % 7 == 3:
        return None
    if i % 11 == 5:
        return ""
    if i == 300:
        return "a long line of text, 日本語 too\n" * 2000
    return f"document {i % 40}: {'words and words ' * (i % 13)}\n"


texts = [document(i) for i in range(400)]
table = pa.table({
    "id": pa.array(range(400)),
    "meta": pa.array([{"lang": "en", "body": t} for t in texts], pa.struct([("lang", pa.string()), ("body", pa.string())])),
    "text": pa.array(texts, pa.string()),
    "tags": pa.array([["a", "b"]] * 400, pa.list_(pa.string())),
})
for name, options in {
    "snappy": dict(compression="snappy"),
    "zstd-v2": dict(compression="zstd", data_page_version="2.0", data_page_size=2000, write_batch_size=16),
    "gzip-crc": dict(compression="gzip", use_dictionary=False, write_page_checksum=True, data_page_size=2000, write_batch_size=16),
    "brotli": dict(compression="brotli", use_dictionary=False),
    "lz4": dict(compression="lz4", use_dictionary=False),
    "plain": dict(compression="none", row_group_size=60, data_page_size=500, write_batch_size=8),
    "delta-length": dict(compression="zstd", use_dictionary=False, column_encoding={"text": "DELTA_LENGTH_BYTE_ARRAY"}, row_group_size=150),
    "delta": dict(compression="zstd", use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"}, data_page_version="2.0"),
}.items():
    options.setdefault("compression_level", {"zstd": 19, "gzip": 9, "brotli": 11}.get(options["compression"]))
    pq.write_table(table.slice(0, 150) if name == "plain" else table.select(["text"]), name + ".parquet", **options)
if duckdb:
    t = table
    duckdb.sql("copy (select text from t) to 'duckdb.parquet' (format parquet, compression zstd, parquet_version v2)")
