-- The clients that the operator banned.
--
-- KEYS[1]  a hash: client to when its ban ends (ms); '' to the version, another at every change
-- ARGV[1]  milliseconds by which the server's clock is taken to be ahead
-- then     the version known, to be told; or client and milliseconds (0: lift), to change
--
-- Answers {version, now (ms)} if that version is known, else {version, now, client, end …}. The
-- version itself is among the clients, as ''.

local key = KEYS[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[1]

if #ARGV == 2 then
    local version = redis.call('HGET', key, '') or ''
    local answer = {version, tostring(now)}
    if version ~= ARGV[2] then
        for _, word in ipairs(redis.call('HGETALL', key)) do
            answer[#answer + 1] = word
        end
    end
    return answer
end

local client, length = ARGV[2], tonumber(ARGV[3])
redis.call('HSET', key, '', clock[1] .. '.' .. clock[2])
if length > 0 then
    redis.call('HSET', key, client, string.format('%.0f', now + length))
else
    redis.call('HDEL', key, client)
end
local known, last = redis.call('HGETALL', key), 0
for at = 1, #known, 2 do
    local ends = known[at] ~= '' and tonumber(known[at + 1]) or nil
    if ends and ends <= now then
        redis.call('HDEL', key, known[at])
    elseif ends then
        last = math.max(last, ends)
    end
end
-- The version outlives the bans: where there is none, the server has lost what it knew.
redis.call('PEXPIRE', key, string.format('%.0f', math.max(last - now, 0) + 7 * 86400000))
return 0
