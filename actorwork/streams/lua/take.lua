-- Reads new entries of many streams, but no more in all than there is room for: COUNT of XREADGROUP is for each stream.
--
-- KEYS  the streams, the most urgent first; within a level of priority in the order of this turn
-- ARGV  group, consumer, how many in all, how many of each level at least, with which level (0, 1, ...) to begin with
--       that, then for each level: how many of KEYS are of it
--
-- Returns {stream, entries} for each stream that had some. Within a level each stream gets an equal share; what is left goes
-- to those that have more. First each level gets its share, so that none starves; the rest goes to the most urgent first.
--
-- One call of this script replaces a blocking read, so it must never take more than there is room for: an entry that was read
-- and does not fit would be pending here, while another node could handle it.

local group, consumer, room, share = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local taken = {}

local function take(streams, wanted)
  while wanted > 0 and #streams > 0 do
    local each = math.max(1, math.floor(wanted / #streams))
    local fuller = {}
    for _, stream in ipairs(streams) do
      if wanted <= 0 then
        break
      end
      local count = math.min(each, wanted)
      local reply = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', stream, '>')
      if reply and reply[1] then
        local entries, sofar = reply[1][2], taken[stream] or {}
        for _, entry in ipairs(entries) do
          sofar[#sofar + 1] = entry
        end
        taken[stream] = sofar
        room, wanted = room - #entries, wanted - #entries
        if #entries == count then
          fuller[#fuller + 1] = stream
        end
      end
    end
    streams = fuller
  end
end

local levels, first = {}, 1
for i = 6, #ARGV do
  levels[#levels + 1] = { unpack(KEYS, first, first + ARGV[i] - 1) }
  first = first + ARGV[i]
end
if share > 0 and #levels > 1 then
  for i = 0, #levels - 1 do
    take(levels[(ARGV[5] + i) % #levels + 1], math.min(share, room))
  end
end
for _, streams in ipairs(levels) do
  take(streams, room)
end

local found = {}
for _, stream in ipairs(KEYS) do
  if taken[stream] then
    found[#found + 1] = { stream, taken[stream] }
  end
end
return found
