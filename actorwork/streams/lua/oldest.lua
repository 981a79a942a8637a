-- How long the oldest message that a group has not read has waited.
--
-- KEYS  the streams of one source
--
-- Returns milliseconds, or nil if there is none. The first part of an entry's id is the time at which it was added.

local function parts(id)
  local left, right = string.match(id, '^(%d+)%-(%d+)$')
  return tonumber(left), tonumber(right)
end

local oldest
for _, stream in ipairs(KEYS) do
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if not groups.err then
    local first, high, low
    for _, group in ipairs(groups) do
      for i = 1, #group, 2 do
        if group[i] == 'last-delivered-id' then
          local left, right = parts(group[i + 1])
          if not first or left < high or (left == high and right < low) then
            first, high, low = group[i + 1], left, right
          end
        end
      end
    end
    local entry = redis.call('XRANGE', stream, first and '(' .. first or '-', '+', 'COUNT', 1)[1]
    if entry then
      local came = parts(entry[1])
      if not oldest or came < oldest then
        oldest = came
      end
    end
  end
end
if not oldest then
  return nil
end
local time = redis.call('TIME')
return math.max(0, time[1] * 1000 + math.floor(time[2] / 1000) - oldest)
