-- The clients of an endpoint with the most evidence against them.
--
-- KEYS[1]  a sorted set: client by level, with what levels will have fallen by now added. Levels
--          fall alike, so that their order stays.
-- ARGV[1]  f64 recovery (nats a ms), offset of the clock (ms); u32 the most clients that are kept
-- ARGV[2]  milliseconds after which an untouched board is forgotten
-- then     client, f64 level each; none: only tells
--
-- Answers {client, client …}, the strongest first, when it only tells.

local recovery, offset, most = struct.unpack('<ddI4', ARGV[1])
local clock = redis.call('TIME')
local fallen = (clock[1] * 1000 + math.floor(clock[2] / 1000) + offset) * recovery

if #ARGV == 2 then
    local least = '(' .. string.format('%.17g', fallen)
    return redis.call('ZREVRANGEBYSCORE', KEYS[1], '+inf', least)
end
for at = 3, #ARGV, 2 do
    local level = struct.unpack('<d', ARGV[at + 1])
    if level > 0 then
        redis.call('ZADD', KEYS[1], level + fallen, ARGV[at])
    else
        redis.call('ZREM', KEYS[1], ARGV[at])
    end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', fallen)
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -most - 1)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 0
