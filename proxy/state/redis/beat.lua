-- Says that a replica lives, and counts those that do.
--
-- KEYS[1]: a sorted set of replicas by the millisecond at which they last said so.
-- ARGV: the replica, "" to count only; the milliseconds that it is believed, 0 to say goodbye.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local replica, lifetime = ARGV[1], tonumber(ARGV[2])
if replica == '' then
  -- Writes all the same: a server that cannot be written to is to answer with an error.
  redis.call('PEXPIRE', KEYS[1], lifetime)
elseif lifetime > 0 then
  redis.call('ZADD', KEYS[1], now, replica)
  redis.call('PEXPIRE', KEYS[1], lifetime)
else
  redis.call('ZREM', KEYS[1], replica)
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - math.max(lifetime, 5000))
return redis.call('ZCARD', KEYS[1])
