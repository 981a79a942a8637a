-- Looks after sources of one group: what is due enters the stream, what lost its owner is taken over.
--
-- KEYS  the lease of this node, then the sources
-- ARGV  group, consumer, prefix of leases, name of the consumer that owns what was handed back, how many deliveries are
--       wanted in all, after how many crashes a message is dead, from how many on it is taken over alone, the actor's title;
--       then for each source: the prefix of its keys, and 1 if a message that crashed often may be taken over (0 while
--       one is in hand)
--
-- Returns nil if this node holds no lease (it may take nothing), else for each source: ms until the next message is due (-1
-- if none is held back), whether more is waiting, whether the group is missing, the deliveries taken over as
-- {entry id, delivery count, from whom, fields}, the dead letters made as {message id, crashes}, and how many entries
-- are pending under our name, those taken over included.
--
-- A delivery counts as a crash when the lease of its owner is gone. Bystanders that lay in the same mailbox are counted
-- too, so a message that was in hand at several crashes is run alone from then on: only the guilty one gets to the limit.

local group, consumer, leases, released = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local room, limit, alone_from, actor = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local PROMOTED_AT_ONCE = 100
local PAGE = 1000

if redis.call('EXISTS', KEYS[1]) == 0 then
  return false
end

local now = now_ms()

local function promote(stream, prefix)
  local delayed, messages = prefix .. 'delayed', prefix .. 'delayed:messages'
  local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', whole(now), 'LIMIT', 0, PROMOTED_AT_ONCE)
  for _, member in ipairs(due) do
    local packed = redis.call('HGET', messages, member)
    if packed then
      redis.call('XADD', stream, '*', unpack(cmsgpack.unpack(packed)))
      redis.call('HDEL', messages, member)
    end
    redis.call('ZREM', delayed, member)
  end
  local soonest = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  if soonest[2] then
    return math.max(0, tonumber(soonest[2]) - now)
  end
  return -1
end

local function headers_of(fields)
  local named = by_name(fields)
  local _, headers_name = names_in(fields)
  local good, headers = pcall(cjson.decode, named[headers_name] or '{}')
  return good and type(headers) == 'table' and headers or {}
end

-- Makes a dead letter of a message that took down too many processes.
local function bury_crasher(stream, prefix, id, crashes)
  local fields = fields_of(stream, id)
  if not fields then
    ack_and_delete(stream, group, { id })
    return nil
  end
  local named = by_name(fields)
  local id_name = names_in(fields)
  local message_id = named[id_name] or id
  local headers = headers_of(fields)
  local reason = crashes .. ' processes died with this message in hand'
  bury(prefix, {
    'actor', actor, 'group', group, 'error', 'Crashed', 'reason', reason, 'traceback', '',
    'attempt', tostring(headers['actorwork-attempt'] or 1), 'at', whole(now), 'entry', id, 'id', message_id,
  }, fields)
  local ttl, reply_to = headers['actorwork-result-ttl'], headers['actorwork-reply-to']
  if ttl or reply_to then
    local outcome = cjson.encode({
      source = stream, id = message_id, status = 'failed',
      failure = { type = 'Crashed', reason = reason, traceback = '' },
    })
    ttl = tonumber(ttl) and tonumber(ttl) > 0 and whole(math.max(1, tonumber(ttl) * 1000)) or ''
    tell_outcome(prefix, message_id, outcome, ttl, type(reply_to) == 'string' and reply_to or '')
  end
  ack_and_delete(stream, group, { id })
  return { message_id, crashes }
end

local function take_over(stream, prefix, owner, pending_in_all, is_dead, suspects, taken, buried)
  local more = 0
  local page = redis.call('XPENDING', stream, group, '-', '+', math.max(1, math.min(room, PAGE)), owner)
  for _, pending in ipairs(page) do
    local id, count = pending[1], pending[4]
    local crashes = count
    if is_dead and count > limit then
      -- One that cannot be buried (thousands of fields) stays where it is: it must not keep the others waiting.
      local good, letter = pcall(bury_crasher, stream, prefix, id, crashes)
      if good and letter then
        buried[#buried + 1] = letter
      end
    elseif room <= 0 then
      more = 1
    elseif crashes >= alone_from and suspects <= 0 then
      -- Its turn comes when the one in hand is settled.
    else
      local entry = redis.call('XCLAIM', stream, group, consumer, 0, id, 'RETRYCOUNT', count + 1)[1]
      if entry and entry[2] then
        taken[#taken + 1] = { id, count + 1, owner, entry[2] }
        room = room - 1
        if crashes >= alone_from then
          suspects = suspects - 1
        end
      else
        redis.call('XACK', stream, group, id) -- Somebody deleted the entry: there is nothing left to handle.
      end
    end
  end
  if #page < pending_in_all and room <= 0 then
    more = 1
  end
  return more, suspects
end

local report = {}
for s = 2, #KEYS do
  local stream, prefix, suspects = KEYS[s], ARGV[5 + 2 * s], tonumber(ARGV[6 + 2 * s])
  local due_in = promote(stream, prefix)
  local more, missing, taken, buried, ours = 0, 0, {}, {}, 0
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, group)
  if consumers.err then
    missing = 1
  else
    for _, flat in ipairs(consumers) do
      local other = by_name(flat)
      local name, pending = other['name'], other['pending']
      if name == consumer then
        ours = pending
      else
        local is_dead = name ~= released and redis.call('EXISTS', leases .. name) == 0
        if pending > 0 and (is_dead or name == released) then
          local left
          left, suspects = take_over(stream, prefix, name, pending, is_dead, suspects, taken, buried)
          if left == 1 then
            more = 1
          end
        elseif is_dead then
          -- Only with nothing pending: XGROUP DELCONSUMER forgets what was.
          redis.call('XGROUP', 'DELCONSUMER', stream, group, name)
        end
      end
    end
  end
  report[#report + 1] = { due_in, more, missing, taken, buried, ours + #taken }
end
return report
