-- What is in each of many sources.
--
-- KEYS  the sources
-- ARGV  for each of them the prefix of its keys
--
-- Returns the time, and for each {backlog, delayed, dead letters, when its oldest entry was added, when the first delayed one is due};
-- times in ms since the epoch, or -1. Keys that another program has written with another type count as empty.

local LEVELS = { 'critical', 'high', 'low' }

local function number(...)
  local answer = redis.pcall(...)
  return type(answer) == 'number' and answer or 0
end

local function first(...)
  local answer = redis.pcall(...)
  return not answer.err and answer[1] or nil
end

local found = { (now_ms()) }
for index, source in ipairs(KEYS) do
  local prefix = ARGV[index]
  local backlog, oldest = number('HLEN', prefix .. 'waiting'), -1
  local streams = { source }
  -- Few sources have priorities: only those are asked about each level.
  if redis.call('EXISTS', prefix .. 'priorities') == 1 then
    for _, level in ipairs(LEVELS) do
      streams[#streams + 1] = prefix .. 'priority:' .. level
    end
  end
  for _, stream in ipairs(streams) do
    local length = number('XLEN', stream)
    if length > 0 then
      -- Entries that have ended for us, and stay for foreign groups, do not count.
      local kept = number('SCARD', beside(stream) .. 'kept')
      backlog = backlog + math.max(0, length - kept)
      local entry = kept == 0 and first('XRANGE', stream, '-', '+', 'COUNT', 1)
      if entry then
        local came = tonumber(string.match(entry[1], '^%d+'))
        if oldest < 0 or came < oldest then
          oldest = came
        end
      end
    end
  end
  local delayed, due = number('ZCARD', prefix .. 'delayed'), -1
  if delayed > 0 then
    local next_one = redis.call('ZRANGE', prefix .. 'delayed', 0, 0, 'WITHSCORES')
    due = math.floor(tonumber(next_one[2]))
  end
  found[index + 1] = { backlog, delayed, number('XLEN', prefix .. 'dead'), oldest, due }
end
return found
