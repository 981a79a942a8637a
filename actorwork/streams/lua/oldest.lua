-- How long the oldest message that a group of ours has not read has waited.
--
-- KEYS  the streams of one source
-- ARGV  the group that is meant ('' for all of ours)
--
-- Returns milliseconds, or nil if there is none. The first part of an entry's id is the time at which it was added. Foreign
-- groups do not count: a monitor that reads nothing would make every message look old.

local wanted = ARGV[1]
local oldest
for _, stream in ipairs(KEYS) do
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if not groups.err then
    local ours = our_groups(stream)
    local first
    for _, flat in ipairs(groups) do
      local group = by_name(flat)
      local name = group['name']
      if name == wanted or (wanted == '' and (ours[name] or not next(ours))) then
        if not first or has_read({ ['last-delivered-id'] = first }, group['last-delivered-id']) then
          first = group['last-delivered-id']
        end
      end
    end
    local entry = redis.call('XRANGE', stream, first and '(' .. first or '-', '+', 'COUNT', 1)[1]
    if entry then
      local came = tonumber(string.match(entry[1], '^%d+'))
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
