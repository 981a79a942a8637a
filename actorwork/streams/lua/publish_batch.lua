-- Keeps messages of one source; returns how many were new.
--
-- KEYS  the source, its `delayed`, its `delayed:messages`, then the marks
-- ARGV  the prefix of the source's keys, then for each message: which of KEYS is its mark, the bit or '', its terms
--       (publish.lua), how many values follow, and those: field, value, field, value, ...

local prefix = ARGV[1]
local touched = {}
local new = 0
local i = 2
local last = #ARGV
while i <= last do
  local ending = i + 3 + ARGV[i + 3]
  local added, problem = keep(prefix, KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2], i + 4, ending, touched)
  if added then
    new = new + 1
  elseif problem then
    return redis.error_reply(problem)
  end
  i = ending + 1
end
return new
