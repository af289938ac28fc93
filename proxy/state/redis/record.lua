-- One record of sketches: all that is known of one key, in one string.
--
-- KEYS[1]  the record
-- ARGV[1]  u8 what to do: 0 exchange, 1 look, 2 forgive
--          the layout: f64 retention (ms), recovery (nats a ms), ceiling (nats), offset of the
--          clock (ms); u32 bytes of an entry, entries of the ring
--          the delta: replica (8 bytes); u32 sequence, seconds since it was first sent (0: just
--          now); f64 epoch, cursor; u8 families; u16 bytes of sums, of marks; f64 total, peak and
--          level of each family; sums, f64 each; marks, of which the larger stays: none, or u16 how
--          many, and those of their blocks that are not all 0, in order: u16 index, 16 marks;
--          entries of the ring, the oldest first
--
-- An exchange and a look answer {outcome, f64 epoch, cursor and levels, sums, marks, entries, 1 if
-- there is or was evidence worth a place on the board}; a look answers nil for a key that nobody
-- knows. Forgiving answers 0.
--
-- Each delta counts once: the record keeps the last sequence of the replicas that wrote to it.
-- The first write of every path is one that a full server refuses, so that nothing is half done.

local EXCHANGE, LOOK, FORGIVE = 0, 1, 2
local APPLIED, AGAIN, FORGIVEN, DOUBTFUL = 0, 1, 2, 3
-- version, families, bytes of sums, of marks, replicas, bytes of an entry, ring, entries held, next
-- place of the ring, epoch, touched (ms), born (s), entries ever, when the last replica forgotten
-- here had written (s)
local FIXED, FIXED_BYTES, VERSION = '<BBHHHHI4I4I4I6I6I4I6I4', 48, 1
local REPLICA_BYTES, MOST_REPLICAS, REPLICA_SECONDS = 16, 128, 3600
local BLOCK_BYTES = 18 -- of marks
local HEAD_BYTES = 2048 -- of most records: they are read at once
local EXPIRY_MS = 600000 -- how exact the server's own expiry is; ours is exact
local NOTABLE = 1 -- nats

local key = KEYS[1]
local mode, retention, recovery, ceiling, offset, entry, ring, replica, sequence, waited, epoch,
    cursor, families, sums_bytes, marks_bytes, at = struct.unpack('<BddddI4I4c8I4I4ddBHH', ARGV[1])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000) + offset
local second = math.floor(now / 1000)

local function doubles(bytes, from, count)
    local numbers = {struct.unpack('<' .. string.rep('d', count), bytes, from)}
    numbers[count + 1] = nil -- where it stopped reading
    return numbers
end

local function packed(numbers)
    return struct.pack('<' .. string.rep('d', #numbers), unpack(numbers))
end

local function fresh(epoch, levels, count)
    return {
        levels = levels, replicas = '', marks = '', sums = '', held = 0, next = 0, epoch = epoch,
        touched = 0, born = second, count = count, forgotten = 0,
    }
end

-- The record as it is now, or nil.
local function read()
    local head = redis.call('GETRANGE', key, 0, HEAD_BYTES - 1)
    if #head < FIXED_BYTES or string.byte(head) ~= VERSION then
        return nil
    end
    local record = {}
    local _, families, sums, marks, replicas, bytes, places
    _, families, sums, marks, replicas, bytes, places, record.held, record.next, record.epoch,
        record.touched, record.born, record.count, record.forgotten = struct.unpack(FIXED, head)
    if now - record.touched >= retention then
        return nil
    end
    record.size = FIXED_BYTES + 8 * families + REPLICA_BYTES * replicas + marks + sums
    if record.size > #head then
        head = head .. redis.call('GETRANGE', key, #head, record.size - 1)
    end
    local lost = math.max(0, now - record.touched) * recovery
    record.levels = families > 0 and doubles(head, FIXED_BYTES + 1, families) or {}
    for family = 1, families do
        record.levels[family] = math.max(0, record.levels[family] - lost)
    end
    local from = FIXED_BYTES + 8 * families
    record.replicas = string.sub(head, from + 1, from + REPLICA_BYTES * replicas)
    from = from + REPLICA_BYTES * replicas
    if second - record.born >= retention / 1000 then -- a new day: what it counts begins anew
        record.born, record.marks, record.sums = second, '', ''
    else
        record.marks = string.sub(head, from + 1, from + marks)
        record.sums = string.sub(head, from + marks + 1, record.size)
    end
    if bytes ~= entry or places ~= ring then
        record.held, record.next = 0, 0
    end
    return record
end

-- Writes the record with further entries of its ring. Only what changes is written while the length
-- stays; otherwise the whole, since a string that grows in place is allotted twice its length.
local function write(record, entries)
    local added = entry > 0 and #entries / entry or 0
    local grown = math.min(added, ring - record.held)
    local place = record.held < ring and record.held or record.next
    local after = ring > 0 and (place + added) % ring or 0
    local head = struct.pack(
        FIXED, VERSION, #record.levels, #record.sums, #record.marks,
        #record.replicas / REPLICA_BYTES, entry, ring, record.held + grown, after, record.epoch,
        now, record.born, record.count, record.forgotten
    ) .. packed(record.levels) .. record.replicas .. record.marks .. record.sums
    local whole = grown > 0 or #head ~= record.size or record.held == 0
    if whole then
        local old = ''
        if record.held > 0 then
            old = redis.call('GETRANGE', key, record.size, record.size + record.held * entry - 1)
        end
        redis.call('SET', key, head .. old .. string.sub(entries, 1, grown * entry))
    else
        redis.call('SETRANGE', key, 0, head)
    end
    local to, done = (place + grown) % math.max(ring, 1), grown
    while done < added do -- the rest goes over the oldest, at most around the end once
        local run = math.min(added - done, ring - to)
        redis.call('SETRANGE', key, #head + to * entry,
            string.sub(entries, done * entry + 1, (done + run) * entry))
        to, done = 0, done + run
    end
    if whole or math.floor(now / EXPIRY_MS) ~= math.floor(record.touched / EXPIRY_MS) then
        redis.call('PEXPIRE', key, retention + EXPIRY_MS)
    end
end

-- The entries added since a cursor that the ring still holds.
local function since(record, cursor)
    local wanted = math.min(math.max(0, record.count - cursor), record.held)
    if wanted == 0 then
        return ''
    end
    local first = (record.held < ring and record.held or record.next) - wanted
    local function range(from, to)
        return redis.call('GETRANGE', key, record.size + from * entry, record.size + to * entry - 1)
    end
    if first >= 0 then
        return range(first, first + wanted)
    end
    local head = range(ring + first, ring)
    return first + wanted > 0 and head .. range(0, first + wanted) or head
end

local function add(known, added)
    if #known ~= #added then
        return added
    end
    local pieces, count, from = {}, 0, 1
    while from + 63 <= #added do -- eight at a time: no tables
        local a, b, c, d, e, f, g, h = struct.unpack('<dddddddd', known, from)
        local i, j, k, l, m, n, o, p = struct.unpack('<dddddddd', added, from)
        count = count + 1
        pieces[count] =
            struct.pack('<dddddddd', a + i, b + j, c + k, d + l, e + m, f + n, g + o, h + p)
        from = from + 64
    end
    while from < #added do
        local a, b = struct.unpack('<d', known, from), struct.unpack('<d', added, from)
        count = count + 1
        pieces[count] = struct.pack('<d', a + b)
        from = from + 8
    end
    return table.concat(pieces)
end

-- The bytes of two blocks of marks of one index, of which the larger stay.
local function larger_block(known, added)
    local x, y = {string.byte(known, 3, BLOCK_BYTES)}, {string.byte(added, 3, BLOCK_BYTES)}
    for at = 1, BLOCK_BYTES - 2 do
        x[at] = math.max(x[at], y[at])
    end
    return string.sub(known, 1, 2) .. string.char(unpack(x))
end

local function larger(known, added)
    if known == added or #known == 0 or string.sub(known, 1, 2) ~= string.sub(added, 1, 2) then
        return added
    end
    local pieces, count, i, j = {string.sub(known, 1, 2)}, 1, 3, 3
    while i <= #known or j <= #added do -- both are in order
        local a = string.sub(known, i, i + BLOCK_BYTES - 1)
        local b = string.sub(added, j, j + BLOCK_BYTES - 1)
        local first = a ~= '' and struct.unpack('<H', a) or math.huge
        local second = b ~= '' and struct.unpack('<H', b) or math.huge
        count = count + 1
        if first <= second then
            pieces[count] = (first < second or a == b) and a or larger_block(a, b)
            i = i + BLOCK_BYTES
        else
            pieces[count] = b
        end
        if second <= first then
            j = j + BLOCK_BYTES
        end
    end
    return table.concat(pieces)
end

-- Whether this sequence of the replica counts; if so it is noted, the latest replica first.
local function note(record, replica, sequence, waited)
    local known = record.replicas
    for from = 1, #known, REPLICA_BYTES do
        if string.sub(known, from, from + 7) == replica then
            if sequence <= struct.unpack('<I4', known, from + 8) then
                return AGAIN
            end
            known = string.sub(known, 1, from - 1) .. string.sub(known, from + REPLICA_BYTES)
            waited = 0
            break
        end
    end
    if waited > 0 and record.forgotten >= second - waited - 1 then
        return DOUBTFUL -- it may have counted, and who wrote then is forgotten
    end
    known = replica .. struct.pack('<I4I4', sequence, second) .. known
    while #known > REPLICA_BYTES do
        local wrote = struct.unpack('<I4', known, #known - 3)
        if #known <= MOST_REPLICAS * REPLICA_BYTES and wrote >= second - REPLICA_SECONDS then
            break
        end
        record.forgotten = math.max(record.forgotten, wrote)
        known = string.sub(known, 1, -REPLICA_BYTES - 1)
    end
    record.replicas = known
    return APPLIED
end

local function notable(record)
    for _, level in ipairs(record.levels) do
        if level >= NOTABLE then
            return true
        end
    end
    return false
end

local function answer(outcome, record, entries, noted)
    return {
        outcome, packed({record.epoch, record.count, unpack(record.levels)}), record.sums,
        record.marks, entries, noted and 1 or 0,
    }
end

local record = read()

if mode == LOOK then
    return record and answer(APPLIED, record, since(record, cursor), notable(record))
end

if mode == FORGIVE then
    -- Later than any epoch that the key ever had, even if its record was forgotten meanwhile.
    local epoch, levels, count = second, {}, 0
    if record then
        epoch, count = math.max(second, record.epoch + 1), record.count
        for family = 1, #record.levels do
            levels[family] = 0
        end
    end
    write(fresh(epoch, levels, count), '')
    return 0
end

local learnt = families > 0 and doubles(ARGV[1], at, 3 * families) or {}
at = at + 24 * families
local sums = string.sub(ARGV[1], at, at + sums_bytes - 1)
local marks = string.sub(ARGV[1], at + sums_bytes, at + sums_bytes + marks_bytes - 1)
local added = string.sub(ARGV[1], at + sums_bytes + marks_bytes)

if not record or record.epoch < epoch then
    -- Unknown, lost, or of before a forgiveness that was lost: as the replica knows it.
    local levels = {}
    for family = 1, families do
        levels[family] = learnt[3 * family]
    end
    record = fresh(epoch, levels, record and record.count or 0)
end
record.count = math.max(record.count, cursor)
local entries = since(record, cursor)
local noted = notable(record)
local outcome = FORGIVEN
if record.epoch == epoch then
    outcome = note(record, replica, sequence, waited)
end
if outcome ~= APPLIED then
    return answer(outcome, record, entries, noted)
end
for family = 1, families do
    local total, peak = learnt[3 * family - 2], learnt[3 * family - 1]
    record.levels[family] =
        math.min(ceiling, math.max((record.levels[family] or 0) + total, peak))
end
if sums ~= '' then
    record.sums = add(record.sums, sums)
end
if marks ~= '' then
    record.marks = larger(record.marks, marks)
end
if entry > 0 then
    record.count = record.count + #added / entry
end
write(record, added)
return answer(outcome, record, entries, noted or notable(record))
