-- Reads new entries of many sources, but no more in all than there is room for: COUNT of XREADGROUP is for each stream.
--
-- KEYS  the sources, in the order of this turn
-- ARGV  group, consumer, how many in all
--
-- Returns {source, entries} for each source that had some. Each gets an equal share; what is left goes to those that have more.

local group, consumer, room = ARGV[1], ARGV[2], tonumber(ARGV[3])
local taken = {}
local sources = KEYS
while room > 0 and #sources > 0 do
  local share = math.max(1, math.floor(room / #sources))
  local fuller = {}
  for _, stream in ipairs(sources) do
    if room <= 0 then
      break
    end
    local wanted = math.min(share, room)
    local reply = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', wanted, 'STREAMS', stream, '>')
    if reply and reply[1] then
      local entries = reply[1][2]
      taken[#taken + 1] = { stream, entries }
      room = room - #entries
      if #entries == wanted then
        fuller[#fuller + 1] = stream
      end
    end
  end
  sources = fuller
end
return taken
