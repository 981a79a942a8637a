-- Keeps messages of one source whose results are to be kept, that are due at once and depend on no others; returns how many
-- were new.
--
-- KEYS  the source, the mark that their ids share
-- ARGV  the prefix of the source's keys, for how many seconds the mark is kept ('' to leave its time as it is), then for each
--       message: its bit, how many ms to keep its result, how many values follow, and those: field, value, ... (the first pair
--       is its id, the last one its claim)
--
-- As `keep_on_terms` in publish.lua, without what others need: clients wait for this one, so it has no parts. If the entry cannot
-- be added, its mark is removed again. A user who may not write the life of a message (state.lua) submits it all the same.

-- As in publisher.py and state.lua: 40 days, longer than a dead letter is kept. As text, like all that is written here: to write a
-- number costs more.
local KEPT_SECONDS = '3456000'
local stream, mark, prefix = KEYS[1], KEYS[2], ARGV[1]
local new, i = 0, 3
while i <= #ARGV do
  local first = i + 3
  local last = i + 2 + ARGV[i + 2]
  if redis.call('SETBIT', mark, ARGV[i], '1') == 0 then
    local message_id, claim = ARGV[first + 1], ARGV[last]
    local added = redis.pcall('XADD', stream, '*', unpack(ARGV, first, last))
    if type(added) == 'table' then
      redis.call('SETBIT', mark, ARGV[i], 0)
      return redis.error_reply(added.err)
    end
    local state, sent = prefix .. 'state:' .. message_id, string.match(added, '^%d+')
    local begun = redis.pcall('HSET', state, 'status', 'PENDING', 'version', '1', 'claim', claim, 'ttl', ARGV[i + 1], 'sent',
      sent, 'place', added)
    if type(begun) == 'number' then
      redis.call('EXPIRE', state, KEPT_SECONDS)
      -- The newest tracked messages of the source, as in state.lua.
      redis.pcall('ZADD', prefix .. 'tracked', sent, message_id)
      if ARGV[i] % 32 == 0 then
        local trimmed = redis.pcall('ZREMRANGEBYRANK', prefix .. 'tracked', '0', '-10001')
        if type(trimmed) == 'table' then
          redis.pcall('DEL', prefix .. 'tracked') -- A user who may not do that must not let it grow without end.
        end
        redis.pcall('EXPIRE', prefix .. 'tracked', KEPT_SECONDS)
      end
    else
      redis.call('SET', prefix .. 'claim:' .. message_id, claim, 'EX', KEPT_SECONDS)
    end
    new = new + 1
  end
  i = last + 1
end
if ARGV[2] ~= '' then
  redis.call('EXPIRE', mark, ARGV[2])
end
return new
