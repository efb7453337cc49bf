"""Files damaged at random, for the readers of files: `rng` is a :class:`random.Random`, so that a seed says which.

``mutated`` damages bytes; ``mutated_zip`` also goes inside, to members, headers and the JSON in them, with checksums
that are right again.  ``COUNT`` is how many a test tries.
"""

import io
import json
import os
import zipfile

COUNT = int(os.environ.get("NUMBADENSE_MUTATIONS", "200"))
NUMBERS = (0, -1, 1, 2**31, -(2**31), 2**53, 10**13, 2**64, 10**30, 1e308, float("nan"), 0.5)
VALUES = (*NUMBERS, "", "0", "x" * 300, None, True, [], {}, [[]], [None], {"": None})


def mutated(content, rng):
    """Return `content` with one to four of: bits flipped, bytes set, cut, inserted, repeated or moved."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(content) + 1)
        length = rng.choice((1, 2, 4, 8, rng.randrange(1, 100)))
        kind = rng.randrange(7)
        if kind == 0 and place < len(content):
            content[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[place : place + length] = bytes(rng.choice((0, 1, 127, 255)) for _ in range(length))
        elif kind == 2:
            del content[place:]
        elif kind == 3:
            content[place:place] = rng.randbytes(length)
        elif kind == 4:
            del content[place : place + length]
        else:
            other = rng.randrange(len(content) + 1)
            piece = content[other : other + length]
            content[place : place + (length if kind == 5 else 0)] = piece
    return bytes(content)


def mutated_json(value, rng):
    """Return a JSON value with one to three of its parts replaced, removed, repeated, renamed or exchanged."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return rng.choice(VALUES)
        holder, key = rng.choice(places)
        kind = rng.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            other, place = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[place]))
        elif kind == 2 and isinstance(holder, dict):
            holder[f"{key}{rng.choice(('', '_', 's'))}"] = holder.pop(key)
        elif kind == 2:
            holder.insert(key, holder[key])
        elif kind == 3 and isinstance(holder[key], str):
            holder[key] = mutated(holder[key].encode(), rng).decode("latin-1")
        elif kind == 4 and isinstance(holder[key], (int, float)):
            holder[key] = rng.choice(NUMBERS)
        else:
            holder[key] = rng.choice(VALUES)
    return value


def _places(value):
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def mutated_zip(content, rng):
    """Return a zip archive damaged outside, or written anew with a member damaged, exchanged, removed or doubled."""
    kind = rng.randrange(8)
    if kind == 0:
        return mutated(content, rng)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        compression = archive.infolist()[0].compress_type
        members = [(name, archive.read(name)) for name in archive.namelist()]
    index = rng.randrange(len(members))
    readable = [i for i, (name, _) in enumerate(members) if name.endswith(".json")]
    if kind <= 4 and readable:
        index = rng.choice(readable)
        members[index] = (members[index][0], json.dumps(mutated_json(json.loads(members[index][1]), rng)).encode())
    elif kind == 5:
        del members[index]
    elif kind == 6:
        members[index] = (members[index][0], rng.choice(members)[1])
    else:
        members[index] = (members[index][0], mutated(members[index][1], rng))
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as archive:
        for name, member in members:
            archive.writestr(name, member)
    return written.getvalue()
