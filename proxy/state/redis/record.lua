-- One record of sketches: all that is known of one key, in one string.
--
-- KEYS[1]  the record
-- ARGV[1]  'exchange', 'look' or 'forgive'
-- ARGV[2]  the layout: f64 retention (ms), recovery (nats a ms), ceiling (nats), offset of the clock
--          (ms); u32 bytes of an entry, entries of the ring
-- ARGV[3]  the delta: replica (8 bytes); u32 sequence, seconds since it was first sent (0: just
--          now); f64 epoch, cursor; u8 families; f64 total, peak and level of each
-- ARGV[4]  sums to add: f64 each; or ''
-- ARGV[5]  marks, of which the larger stays: u16 how many; u16 index and u8 value of each that is
--          not 0; or ''
-- ARGV[6]  entries of the ring, the oldest first; or ''
--
-- 'exchange' and 'look' answer {outcome, f64 epoch, cursor and levels, sums, marks, entries, 1 if
-- there is or was evidence}; 'look' answers nil for a key that nobody knows. 'forgive' answers 0.
--
-- Each delta counts once: the record keeps the last sequence of the replicas that wrote to it.
-- The first write of every path is one that a full server refuses, so that nothing is half done.

local APPLIED, AGAIN, FORGIVEN, DOUBTFUL = 0, 1, 2, 3
-- version, families, sums, bytes of marks, replicas, bytes of an entry, ring, next place of the ring,
-- epoch, touched (ms), born (s), entries ever, when the last replica forgotten here had written (s)
local FIXED, FIXED_BYTES, VERSION = '<BBHHHHI4I4I6I6I4I6I4', 44, 1
local REPLICA_BYTES, MOST_REPLICAS, REPLICA_SECONDS = 16, 128, 3600
local CHUNK = 64

local key, mode = KEYS[1], ARGV[1]
local retention, recovery, ceiling, offset, entry, ring = struct.unpack('<ddddI4I4', ARGV[2])
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
        born = second, count = count, forgotten = 0,
    }
end

-- The record as it is now, or nil.
local function read()
    local fixed = redis.call('GETRANGE', key, 0, FIXED_BYTES - 1)
    if #fixed < FIXED_BYTES or string.byte(fixed) ~= VERSION then
        return nil
    end
    local record = {}
    local _, families, sums, marks, replicas, bytes, places, touched
    _, families, sums, marks, replicas, bytes, places, record.next, record.epoch, touched,
        record.born, record.count, record.forgotten = struct.unpack(FIXED, fixed)
    if now - touched >= retention then
        return nil
    end
    record.size = FIXED_BYTES + 8 * families + REPLICA_BYTES * replicas + marks + 8 * sums
    local head = redis.call('GETRANGE', key, FIXED_BYTES, record.size - 1)
    record.levels = families > 0 and doubles(head, 1, families) or {}
    local lost = math.max(0, now - touched) * recovery
    for family = 1, families do
        record.levels[family] = math.max(0, record.levels[family] - lost)
    end
    local at = 8 * families
    record.replicas = string.sub(head, at + 1, at + REPLICA_BYTES * replicas)
    at = at + REPLICA_BYTES * replicas
    if second - record.born >= retention / 1000 then -- a new day: what it counts begins anew
        record.born, record.marks, record.sums = second, '', ''
    else
        record.marks = string.sub(head, at + 1, at + marks)
        record.sums = string.sub(head, at + marks + 1)
    end
    record.held = 0
    if bytes == entry and places == ring and entry > 0 then
        record.held = (redis.call('STRLEN', key) - record.size) / entry
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
        FIXED, VERSION, #record.levels, #record.sums / 8, #record.marks,
        #record.replicas / REPLICA_BYTES, entry, ring, after, record.epoch, now, record.born,
        record.count, record.forgotten
    ) .. packed(record.levels) .. record.replicas .. record.marks .. record.sums
    if grown > 0 or #head ~= record.size or record.held == 0 then
        local old = ''
        if record.held > 0 then
            old = redis.call('GETRANGE', key, record.size, record.size + record.held * entry - 1)
        end
        redis.call('SET', key, head .. old .. string.sub(entries, 1, grown * entry))
    else
        redis.call('SETRANGE', key, 0, head)
    end
    local at, done = (place + grown) % math.max(ring, 1), grown
    while done < added do -- the rest goes over the oldest, at most around the end once
        local run = math.min(added - done, ring - at)
        redis.call('SETRANGE', key, #head + at * entry,
            string.sub(entries, done * entry + 1, (done + run) * entry))
        at, done = 0, done + run
    end
    redis.call('PEXPIRE', key, retention)
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
    local pieces = {}
    for from = 1, #added, 8 * CHUNK do -- Lua's stack is small
        local count = math.min(CHUNK, (#added - from + 1) / 8)
        local x, y = doubles(known, from, count), doubles(added, from, count)
        for i = 1, count do
            x[i] = x[i] + y[i]
        end
        pieces[#pieces + 1] = packed(x)
    end
    return table.concat(pieces)
end

local function larger(known, added)
    if string.sub(known, 1, 2) ~= string.sub(added, 1, 2) then
        return added
    end
    for from = 3, #added, 3 do
        local index, value = string.sub(added, from, from + 1), string.byte(added, from + 2)
        local at = string.find(known, index, 3, true)
        while at and at % 3 ~= 0 do
            at = string.find(known, index, at + 1, true)
        end
        if not at then
            known = known .. string.sub(added, from, from + 2)
        elseif value > string.byte(known, at + 2) then
            known = string.sub(known, 1, at + 1) .. string.char(value) .. string.sub(known, at + 3)
        end
    end
    return known
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

local function evidence(record)
    for _, level in ipairs(record.levels) do
        if level > 0 then
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

if mode == 'look' then
    local _, _, _, _, cursor = struct.unpack('<c8I4I4dd', ARGV[3])
    return record and answer(APPLIED, record, since(record, cursor), evidence(record))
end

if mode == 'forgive' then
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

local replica, sequence, waited, epoch, cursor, families, at = struct.unpack('<c8I4I4ddB', ARGV[3])
local learnt = doubles(ARGV[3], at, 3 * families)
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
local noted = evidence(record)
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
if ARGV[4] ~= '' then
    record.sums = add(record.sums, ARGV[4])
end
if ARGV[5] ~= '' then
    record.marks = larger(record.marks, ARGV[5])
end
if entry > 0 then
    record.count = record.count + #ARGV[6] / entry
end
write(record, ARGV[6])
return answer(outcome, record, entries, noted or evidence(record))
