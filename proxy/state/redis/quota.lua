-- Charges one quota, takes back what is left of a lease of it, and grants another in its place.
--
-- KEYS[2], if there is a charge: exists once it was made, so that it is made once.
-- KEYS[1]: "at debt spare spare_end day used": when it was written (microseconds of the epoch), the
-- debt of the rate (nanoseconds until it is paid), leased nanoseconds that came back unspent and how
-- long they are worth anything, and the rows of the day.
--
-- A lease of rows is a piece of the debt. It is worth no more than what of the debt up to its own
-- end is still unpaid, as what time has paid is granted again. So what comes back is not taken off
-- the debt, on which later leases lie: it is kept as a spare, with its own end, and granted first.
-- Two pieces become one by the smaller of what is certain of both.
local number = tonumber
local now = number(ARGV[1]) -- microseconds of the epoch; 0: of this server
local interval, burst, per_day = number(ARGV[2]), number(ARGV[3]), number(ARGV[4])
local need = number(ARGV[5]) -- grant none if there are fewer than this; 0: only take back
local asked = number(ARGV[6]) -- rows that takes wait for now, at least need
local wanted = number(ARGV[7]) -- rows that may be of use soon
local divisor = number(ARGV[8]) -- of what there is, only this part is granted ahead
local back, back_piece, back_at, back_lasts, back_day =
  number(ARGV[9]), number(ARGV[10]), number(ARGV[11]), number(ARGV[12]), number(ARGV[13])
-- The charge: nanoseconds of the rate, and rows of a day.
local owed, owed_rows, owed_day = number(ARGV[14]), number(ARGV[15]), number(ARGV[16])

local timed = now == 0
if timed then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local today = math.floor(now / 86400000000)

local debt, spare, spare_end, day, used = 0, 0, 0, today, 0
local value = redis.call('GET', KEYS[1])
if value then
  local at
  at, debt, spare, spare_end, day, used =
    string.match(value, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
  -- A clock that is set back pays nothing, and takes nothing back.
  local passed = math.max(0, now - at) * 1000
  debt = math.max(0, debt - passed)
  spare_end = math.max(0, spare_end - passed)
  spare = math.min(number(spare), spare_end)
  day, used = number(day), number(used)
  if day ~= today and day ~= today + 1 then
    day, used = today, 0
  end
end

-- A charge is of a day's rows, or of a debt that is paid long before the note of it expires.
if KEYS[2] and redis.call('SET', KEYS[2], 1, 'NX', 'PX', 172800000) then
  debt = debt + owed
  if owed_day == day then
    used = used + owed_rows
  end
end

-- One piece that is never worth more than both: (rows, end) of each in nanoseconds.
local function joined(one, one_end, other, other_end)
  if one_end > other_end then
    one, one_end, other, other_end = other, other_end, one, one_end
  end
  if one == 0 then
    return other, other_end
  end
  return one + other, math.min(other_end, one_end + other)
end

if back > 0 then
  local ends = math.min(debt, back_lasts - math.max(0, now - back_at) * 1000)
  local piece = math.min(back_piece, ends)
  if piece > 0 then
    spare, spare_end = joined(spare, spare_end, piece, ends)
    spare = math.min(spare, spare_end)
  end
  if back_day == day then
    used = math.max(0, used - back)
  end
end

local rows, lasts, rate_wait, day_wait = 0, 0, 0, 0
if need > 0 then
  local most = math.huge
  local free = burst * interval - debt + spare
  if interval > 0 then
    most = math.floor(free / interval)
    if most < need then
      rate_wait = need * interval - free
      -- While a spare runs out, what there is does not grow.
      if rate_wait > spare_end - spare then
        rate_wait = rate_wait + spare
      end
    end
  end
  if per_day > 0 then
    most = math.min(most, per_day - used)
    if per_day - used < need then
      day_wait = (day + 1) * 86400000000 - now
    end
  end
  if most >= need then
    rows = math.min(most, math.max(asked, math.min(wanted, math.floor(most / divisor))))
    -- What came back and what is new are one piece where nothing was granted in between. Elsewhere a
    -- piece of both would end too early, and whichever has enough for those that wait is granted.
    local fresh = burst * interval - debt
    local old
    if spare_end >= debt then
      old = math.min(spare, rows * interval)
    elseif spare >= asked * interval then
      rows = math.min(rows, math.floor(spare / interval))
      old = rows * interval
    elseif fresh >= asked * interval then
      rows = math.min(rows, math.floor(fresh / interval))
      old = 0
    else
      old = math.min(spare, rows * interval)
    end
    local piece = rows * interval
    local old_end = spare_end - (spare - old)
    spare = spare - old
    debt = debt + piece - old
    if old == 0 then
      lasts = debt
    elseif old == piece then
      lasts = old_end
    else
      lasts = math.min(debt, old_end + piece - old)
    end
    used = used + rows
  end
end
if per_day == 0 then
  used = 0
end

local until_midnight = (day + 1) * 86400000000 - now
local keep = math.max(debt / 1000, used > 0 and until_midnight or 0)
if keep > 0 then
  local written = string.format(
    '%.0f %.0f %.0f %.0f %.0f %.0f', now, debt, spare, spare_end, day, used)
  if timed then
    redis.call('SET', KEYS[1], written, 'PX', math.min(1e13, math.ceil(keep / 1000) + 1000))
  else
    redis.call('SET', KEYS[1], written)
  end
elseif value then
  redis.call('DEL', KEYS[1])
end

local function whole(x)
  return string.format('%.0f', x)
end
return {
  whole(rows), whole(now), whole(lasts), whole(day), whole(until_midnight),
  whole(rate_wait), whole(day_wait),
}
