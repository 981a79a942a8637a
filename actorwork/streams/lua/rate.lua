-- Tokens of a rate, taken in advance.
--
-- KEYS  the rate: the moment (µs) of the next token, if all of them were evenly spaced
-- ARGV  the interval between two (µs), the burst, how many are taken
--
-- Returns how many µs to wait before they count, as text.

local interval, burst, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local moved = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now) + cost * interval
redis.call('SET', KEYS[1], string.format('%.0f', moved), 'PX', math.ceil((moved - now) / 1000) + 1)
return string.format('%.0f', math.max(0, moved - burst * interval - now))
