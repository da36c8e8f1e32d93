-- SPDX-License-Identifier: MIT
-- Questions to the snapshots of many hosts (ptshare audit --save), for DuckDB 1.5 or newer. See docs/fleet.md.
--
--     duckdb -f fleet.sql                                     reads snapshots/*.json and *.json.gz
--     duckdb -cmd "SET VARIABLE snapshots = '/srv/audits/*/*.json*'" -f fleet.sql
--
-- A host is the name of its file; of several files of a name the newest snapshot is taken.

-- name: read
-- Kept as it is at first: types given while files are read take five times as long, a file having one value.
CREATE OR REPLACE TEMP TABLE texts AS
SELECT filename, json
FROM read_json_objects(
    coalesce(getvariable('snapshots'), 'snapshots/*.json*'),
    format = 'newline_delimited',
    ignore_errors = true,
    filename = true,
    maximum_object_size = 33554432
);

-- name: typed
-- Fields that this list does not have are passed over, and those that a snapshot does not have are NULL. A file
-- that is cut or is something else gives NULLs, which the question "unusable" tells of; but a cut .gz ends the
-- reading, with its name.
CREATE OR REPLACE TEMP TABLE files AS
SELECT
    filename,
    regexp_extract(filename, '([^/]+?)(\.json)?(\.gz)?$', 1) AS host_name,
    unnest(json_transform(json, '{
        "format": "VARCHAR",
        "version": "BIGINT",
        "scope": "VARCHAR",
        "host": {
            "time": "DOUBLE", "kernel": "VARCHAR", "page_bytes": "BIGINT", "memory_bytes": "BIGINT",
            "page_tables_bytes": "BIGINT", "explained_bytes": "BIGINT", "duplicate_bytes": "BIGINT",
            "saved_now_bytes": "BIGINT", "partial": ["VARCHAR"]
        },
        "objects": [{
            "name": "VARCHAR", "kind": "VARCHAR", "mappers": "BIGINT", "tables_bytes": "BIGINT",
            "duplicate_bytes": "BIGINT", "obstacle": "VARCHAR", "saved_by_sharing_bytes": "BIGINT",
            "saved_by_huge_pages_bytes": "BIGINT", "commands": [{"command": "VARCHAR", "tables": "BIGINT"}]
        }],
        "processes": [{"command": "VARCHAR", "vm_pte_bytes": "BIGINT"}],
        "unread": [{"reason": "VARCHAR", "count": "BIGINT"}]
    }'))
FROM texts;

-- name: latest
-- Audits of some processes alone say nothing of their host.
CREATE OR REPLACE TEMP TABLE audits AS
SELECT * FROM files
WHERE format = 'ptshare-audit' AND version = 1 AND host IS NOT NULL AND coalesce(scope, '') = ''
QUALIFY row_number() OVER (PARTITION BY host_name ORDER BY host.time DESC, filename) = 1;

-- name: objects
-- Each object of each host. Names that differ in numbers alone are one, /dev/shm/pool-N.
CREATE OR REPLACE TEMP VIEW objects AS
SELECT host_name, host.page_bytes AS page_bytes, item.*, regexp_replace(item.name, '[0-9]+', 'N', 'g') AS what
FROM (SELECT host_name, host, unnest(objects) AS item FROM audits)
WHERE item IS NOT NULL;

-- name: total
-- What the fleet spends, and what each remedy would save in all.
SELECT
    count(*) AS hosts,
    sum(host.memory_bytes) AS memory_bytes,
    sum(host.page_tables_bytes) AS page_tables_bytes,
    sum(host.explained_bytes) AS explained_bytes,
    sum(host.saved_now_bytes) AS saved_now_bytes,
    (SELECT sum(saved_by_sharing_bytes) FROM objects) AS sharing_would_save_bytes,
    (SELECT sum(saved_by_huge_pages_bytes) FROM objects) AS huge_pages_would_save_bytes,
    (SELECT sum(greatest(saved_by_sharing_bytes, saved_by_huge_pages_bytes)) FROM objects)
        AS better_of_both_bytes
FROM audits;

-- name: hosts
-- Which hosts waste most?
SELECT
    host_name,
    host.duplicate_bytes AS duplicate_bytes,
    host.page_tables_bytes AS page_tables_bytes,
    round(host.duplicate_bytes / nullif(host.memory_bytes, 0), 4) AS part_of_memory,
    host.kernel AS kernel
FROM audits
ORDER BY duplicate_bytes DESC NULLS LAST, host_name
LIMIT 20;

-- name: by_object
-- On which objects, over all hosts?
SELECT
    kind,
    what,
    count(DISTINCT host_name) AS hosts,
    sum(mappers) AS mappers,
    sum(tables_bytes) AS tables_bytes,
    sum(saved_by_sharing_bytes) AS sharing_would_save_bytes,
    sum(saved_by_huge_pages_bytes) AS huge_pages_would_save_bytes
FROM objects
GROUP BY kind, what
ORDER BY sharing_would_save_bytes DESC NULLS LAST, tables_bytes DESC NULLS LAST, kind, what
LIMIT 20;

-- name: by_command
-- By which commands? Tables of objects, and all tables of the processes.
WITH spent AS (
    SELECT process.command AS command, host_name, process.vm_pte_bytes AS vm_pte_bytes, 0 AS on_objects_bytes
    FROM (SELECT host_name, unnest(processes) AS process FROM audits)
    UNION ALL
    SELECT entry.command, host_name, 0, entry.tables * page_bytes
    FROM (SELECT host_name, page_bytes, unnest(commands) AS entry FROM objects)
)
SELECT
    command,
    count(DISTINCT host_name) AS hosts,
    sum(vm_pte_bytes) AS vm_pte_bytes,
    sum(on_objects_bytes) AS on_objects_bytes
FROM spent
WHERE command IS NOT NULL
GROUP BY command
ORDER BY vm_pte_bytes DESC NULLS LAST, command
LIMIT 20;

-- name: obstacles
-- What is duplicate, by kind, and why some of it cannot be shared. No obstacle: it can.
SELECT
    kind,
    obstacle,
    count(*) AS objects,
    sum(duplicate_bytes) AS duplicate_bytes,
    sum(saved_by_huge_pages_bytes) AS huge_pages_would_save_bytes
FROM objects
GROUP BY kind, obstacle
HAVING sum(duplicate_bytes) > 0
ORDER BY duplicate_bytes DESC, kind, obstacle;

-- name: partial
-- Of which hosts was not all seen, and why?
SELECT host_name, unread_processes, reasons
FROM (
    SELECT
        host_name,
        coalesce(list_sum([entry.count FOR entry IN unread IF entry IS NOT NULL]), 0) AS unread_processes,
        list_concat(
            coalesce(host.partial, []), [entry.reason FOR entry IN coalesce(unread, []) IF entry IS NOT NULL]
        ) AS reasons
    FROM audits
)
WHERE len(reasons) > 0 OR unread_processes > 0
ORDER BY unread_processes DESC, host_name;

-- name: unusable
-- Which files were left out, and why?
SELECT DISTINCT
    file,
    CASE
        WHEN filename IS NULL THEN 'empty'
        WHEN format IS DISTINCT FROM 'ptshare-audit' THEN 'no snapshot, or cut, or not in one line'
        WHEN version IS DISTINCT FROM 1 THEN 'of another version'
        WHEN host IS NULL THEN 'without a host'
        ELSE 'of some processes alone'
    END AS why
FROM glob(coalesce(getvariable('snapshots'), 'snapshots/*.json*')) LEFT JOIN files ON file = filename
WHERE NOT coalesce(
    format = 'ptshare-audit' AND version = 1 AND host IS NOT NULL AND coalesce(scope, '') = '', false
)
ORDER BY file;
