-- The lives of tracked messages: of those that were submitted, and of the steps of runs. (A part: scripts begin with the parts
-- they need.)
--
--   actorwork:{<source>}:state:<id>   a hash: status, version, attempt, count (deliveries of this attempt), actor, node, sent,
--                                     received, started, ended (ms), failure and progress (JSON), reason; for us: claim, ttl (ms
--                                     to be kept after the end), place (as in order.lua: where the message is), cancelled (as in the
--                                     hash of that name, order.lua). Steps of runs may have none: see below
--   actorwork:{<source>}:watch:<id>   a channel: something in it has changed
--   actorwork:{<source>}:watched:<id> on a cluster, a client listens there, and keeps this (streams/watches.py)
--   actorwork:{<source>}:tracked      the ids of the newest 10,000, by when they were sent (ms): for people, who list them
--
-- A life begins when the message is kept, and only the scripts that keep messages write its claim. An entry that was written by
-- another producer has no claim, or a wrong one, so it cannot change what is known of a message with its id.
--
-- A status only goes forward: what is reported later must be of a later attempt, of a later delivery of the same attempt, or further
-- on in the same delivery. So the report of a node that was taken for dead is refused without a look at the pending list, as is
-- one that was overtaken on its way. After the end nothing changes any more, until a dead letter is sent again: a new life.
--
-- An open message is forgotten after 40 days without a change, as its claim is: its entry may have been deleted by hand.
--
-- A user who may not write these keys does all else; then nothing is known of the message.
--
-- A step whose message goes to the home of its run, and waits for nothing, has no hash at first: its run has all that is known
-- of it (`l<number>` in run_book.lua), so nothing is written when it is sent, and little when it is done, as nearly all members
-- of groups soon are. It gets a hash when there is more to say: it takes longer, is tried again, is cancelled, or ends in
-- another way.
--
-- (All in one table, because a script may have no more than 200 local variables.)

local lives = {}

do
  lives.SECONDS = 40 * 86400 -- As in publisher.py: longer than a dead letter is kept.
  lives.LISTED = 10000 -- As in submit.lua.
  lives.MOVING = '=>' -- The place of a message that is on its way to another shard (drain.lua).
  local lacking_at, NOTHING = {}, {}
  local OPEN_FOR = whole(lives.SECONDS)
  local AT_ONCE = 1000
  local FEW = 4 -- Channels: it takes less time to publish to them than to ask for their subscribers.
  local untold = {} -- The channels of steps that have ended in this script.
  local ended_at -- The time of the first end in this script, as text: to write a number costs more than to read one.
  local RANK = { PENDING = 0, RECEIVED = 1, STARTED = 2, RETRY = 3 } -- All others are ends.
  local STATUS_OF_FAILURE = { Expired = 'EXPIRED', Cancelled = 'CANCELLED', Lost = 'FAILURE' }

  local function needs(prefix)
    local key = prefix .. 'state:'
    return { { 'HMGET', key, '' }, { 'HSET', key, '', '' }, { 'EXPIRE', key, 1 }, { 'PEXPIRE', key, 1 } }
  end

  -- Who watches a message knows its source, and not in which shard it is.
  local function channel_of(prefix, message_id)
    return string.gsub(prefix, '%.[^}]*', '', 1) .. 'watch:' .. message_id
  end

  -- Whether a client may listen to a channel. On a cluster, what is published at one server costs all of them, so clients that
  -- watch a message of an actor's own source say so; others do not know its slot. `how` asks: DEL, when there is no more to tell.
  local function may_be_heard(channel, how)
    if not KEYS.tag or not string.find(channel, '^actorwork:{worker:%x+:source}:watch:') then
      return true
    end
    return redis.pcall(how, (string.gsub(channel, ':watch:', ':watched:', 1))) ~= 0
  end

  -- Changes fields of a life, and tells those who watch it; `later`: when `tell_joined` does. PUBLISH may be forbidden (an ACL);
  -- who watches looks now and then.
  local function change(prefix, message_id, version, changes, later)
    local key = prefix .. 'state:' .. message_id
    changes[#changes + 1] = 'version'
    changes[#changes + 1] = version == '1' and '2' or whole((tonumber(version) or 0) + 1)
    redis.call('HSET', key, unpack(changes))
    if later then
      untold[#untold + 1] = channel_of(prefix, message_id)
    else
      local channel = channel_of(prefix, message_id)
      if may_be_heard(channel, RANK[changes[2]] and 'EXISTS' or 'DEL') then
        redis.pcall('PUBLISH', channel, changes[2])
      end
    end
  end

  -- Why this user may not write the lives of a source's messages; false if it may.
  function lives.lacks(prefix)
    if lacking_at[prefix] == nil then
      lacking_at[prefix] = lacks('state of ' .. prefix, needs, prefix)
    end
    return lacking_at[prefix]
  end

  -- What is known of an open step that has no hash, or nil: of what has one, and of all other messages.
  local function kept_by_run(prefix, message_id)
    local run, number = string.match(message_id, '^([^/]+)/(%d+)$')
    if not run then
      return nil
    end
    local at = prefix .. 'flow:' .. run
    local known = redis.pcall('HMGET', at .. ':state', 's' .. number, 'l' .. number, 'p' .. number)
    if known.err or known[1] ~= '1' or known[2] ~= '' then
      return nil
    end
    local secret, ttl = unpack(redis.call('HMGET', at, 'secret', 'ttl'))
    return {
      claim = redis.sha1hex(secret .. '/' .. message_id), ttl = ttl, place = known[3], sent = string.match(known[3], '(%d+)%-%d+$'),
      state = at .. ':state', name = 'l' .. number,
    }
  end

  -- Takes a step from its run: adds what its hash begins with to `fields`.
  local function take_from_run(kept, fields)
    local n = #fields
    fields[n + 1], fields[n + 2], fields[n + 3], fields[n + 4] = 'claim', kept.claim, 'ttl', kept.ttl
    fields[n + 5], fields[n + 6], fields[n + 7], fields[n + 8] = 'sent', kept.sent, 'place', kept.place
    redis.call('HDEL', kept.state, kept.name)
  end

  -- Gives a step its hash, if its run has kept its life so far, before anything is changed that the run does not know of.
  function lives.part(prefix, message_id)
    local kept = not lives.lacks(prefix) and kept_by_run(prefix, message_id)
    if kept then
      local key, fields = prefix .. 'state:' .. message_id, { 'status', 'PENDING', 'version', '1' }
      take_from_run(kept, fields)
      redis.call('HSET', key, unpack(fields))
      redis.call('EXPIRE', key, OPEN_FOR)
    end
  end

  -- Lists messages that were sent, for people. Where an ACL forbids it they are not listed.
  function lives.list(prefix, sent, ids)
    local scored = {}
    for i, id in ipairs(ids) do
      scored[2 * i - 1], scored[2 * i] = sent, id
    end
    redis.pcall('ZADD', prefix .. 'tracked', unpack(scored))
    if #ids > 1 or sent % 32 == 0 then
      local trimmed = redis.pcall('ZREMRANGEBYRANK', prefix .. 'tracked', 0, -1 - lives.LISTED)
      if type(trimmed) == 'table' then
        redis.pcall('DEL', prefix .. 'tracked') -- As in submit.lua.
      end
      redis.pcall('EXPIRE', prefix .. 'tracked', lives.SECONDS)
    end
  end

  -- Begins the life of a message that is kept; `ttl` in ms, `delay` in s. What was known of an earlier message with this id is
  -- gone. Returns whether it has begun. A caller that begins many passes `unlisted`, which gets the id, and lists them at once.
  function lives.begin(prefix, message_id, claim, ttl, sent, place, delay, unlisted)
    if lives.lacks(prefix) then
      return false
    end
    local key = prefix .. 'state:' .. message_id
    local function write()
      return redis.call('HSET', key, 'status', 'PENDING', 'version', '1', 'claim', claim, 'ttl', ttl, 'sent', sent, 'place', place)
    end
    if write() < 6 then -- There was one with this id, more than a day ago or in a run that was forgotten.
      redis.pcall('DEL', key)
      write()
    end
    redis.call('EXPIRE', key, delay and delay > 0 and whole(lives.SECONDS + delay) or OPEN_FOR)
    if unlisted then
      unlisted[#unlisted + 1] = message_id
    else
      lives.list(prefix, sent, { message_id })
    end
    return true
  end

  -- A message is at another place now.
  function lives.moved(prefix, message_id, claim, place)
    if lives.lacks(prefix) then
      return
    end
    local key = prefix .. 'state:' .. message_id
    if redis.call('HMGET', key, 'claim')[1] == claim then
      redis.call('HSET', key, 'place', place)
    end
  end

  -- Notes where a delivery is in its life, if that is not behind what is known; more of it is in ARGV[first..last]. `place`: of
  -- its next attempt, for RETRY. Returns whether it was noted.
  function lives.note(prefix, message_id, claim, status, attempt, count, first, last, place)
    if lives.lacks(prefix) then
      return false
    end
    local key = prefix .. 'state:' .. message_id
    local known = redis.call('HMGET', key, 'claim', 'status', 'attempt', 'count', 'version')
    local kept = not known[1] and kept_by_run(prefix, message_id)
    if kept then
      known = { kept.claim, 'PENDING', nil, nil, '1' }
    end
    local rank = RANK[known[2]]
    if not known[1] or known[1] ~= claim or not rank then
      return false
    end
    attempt, count = tonumber(attempt), tonumber(count)
    local old_attempt, old_count = tonumber(known[3]) or 0, tonumber(known[4]) or 0
    if attempt < old_attempt or attempt == old_attempt
      and (count < old_count or count == old_count and RANK[status] < rank) then
      return false
    end
    local changes = { 'status', status, 'attempt', attempt, 'count', count }
    if attempt ~= old_attempt or count ~= old_count then
      for _, name in ipairs({ 'started', '', 'progress', '', 'failure', '', 'reason', '' }) do
        changes[#changes + 1] = name -- They were of an earlier delivery.
      end
    end
    for i = first, last do
      changes[#changes + 1] = ARGV[i]
    end
    if kept then
      take_from_run(kept, changes)
    end
    if place then
      changes[#changes + 1] = 'place'
      changes[#changes + 1] = place
    end
    change(prefix, message_id, known[5], changes)
    if attempt ~= old_attempt or count ~= old_count then
      redis.call('EXPIRE', key, lives.SECONDS)
    end
    return true
  end

  -- Ends a life, unless it has ended; more of it is in ARGV[first..last], or in `more`, for `finish_done`: field, value, ...
  -- `failure` is the failure of an outcome, if it has one. Returns whether the claim is that of the message, and the status that it
  -- had ended with before, if any.
  function lives.finish(prefix, message_id, claim, how, failure, first, last, more)
    if lives.lacks(prefix) then
      local kept = kept_by_run(prefix, message_id)
      if kept and kept.claim == claim then
        redis.call('HDEL', kept.state, kept.name) -- What the run keeps is open.
      end
      return false
    end
    local key = prefix .. 'state:' .. message_id
    local known = redis.call('HMGET', key, 'claim', 'status', 'ttl', 'version', 'cancelled', 'failure')
    local kept = not known[1] and kept_by_run(prefix, message_id)
    if kept then
      known = { kept.claim, 'PENDING', kept.ttl, '1' }
    end
    if not known[1] or known[1] ~= claim then
      return false
    end
    if known[5] and known[5] ~= '' then
      redis.call('HDEL', prefix .. 'cancelled', message_id)
    end
    if not RANK[known[2]] then
      return true, known[2]
    end
    local status = how == 'done' and 'SUCCESS' or how == 'failed' and 'FAILURE'
      or failure and STATUS_OF_FAILURE[failure.type] or 'REJECTED'
    ended_at = ended_at or whole(now_ms())
    local changes = { 'status', status, 'ended', ended_at, unpack(more or NOTHING) }
    for i = first, last do
      changes[#changes + 1] = ARGV[i]
    end
    if how == 'done' then
      if known[6] and known[6] ~= '' then
        changes[#changes + 1] = 'failure' -- That of the attempt before.
        changes[#changes + 1] = ''
        changes[#changes + 1] = 'reason'
        changes[#changes + 1] = ''
      end
    elseif failure then
      changes[#changes + 1] = 'failure'
      changes[#changes + 1] = cjson.encode(failure)
      changes[#changes + 1] = 'reason'
      changes[#changes + 1] = failure.reason or ''
    end
    if kept then
      take_from_run(kept, changes)
    end
    change(prefix, message_id, known[4], changes, more)
    redis.call('PEXPIRE', key, known[3] or 1)
    return true
  end

  -- What is known of the lives of some messages that are done, all in the same way: for `finish_done` and `finish_kept`.
  function lives.of_done(prefix, actor, node, attempt, count, received, started)
    local more = { 'attempt', attempt, 'count', count }
    if received ~= '' then -- Else it was noted before.
      more = { 'attempt', attempt, 'count', count, 'received', received, 'actor', actor, 'node', node }
      if started ~= '' then
        more[11], more[12] = 'started', started
      end
    end
    return { prefix = prefix, more = more }
  end

  -- Ends the life of a message that is done; those who watch it are told by `tell_joined`.
  function lives.finish_done(life, message_id, claim)
    if claim ~= '' then
      lives.finish(life.prefix, message_id, claim, 'done', nil, 1, 0, life.more)
    end
  end

  -- The same of a step whose life its run keeps: returns what it is to keep of it, JSON of the fields that a hash would get. That
  -- is the same for all that are done in the same way.
  function lives.finish_kept(life, message_id)
    if not life.kept then
      ended_at = ended_at or whole(now_ms())
      local facts = { ended = ended_at }
      for i = 1, #life.more, 2 do
        facts[life.more[i]] = life.more[i + 1]
      end
      life.kept, life.channels = cjson.encode(facts), channel_of(life.prefix, '')
    end
    untold[#untold + 1] = life.channels .. message_id
    return life.kept
  end

  -- Tells those who watch a step that `finish_done` or `finish_kept` has ended. Nearly none is watched, and to publish costs as
  -- much as to write its end, so the server is asked first for which of many there are subscribers. On a cluster they may be at
  -- any of its servers.
  function lives.tell_joined()
    local channels = untold
    untold = {}
    local is_known = #channels > FEW and not KEYS.tag and may('PUBSUB', 'NUMPAT') and redis.pcall('PUBSUB', 'NUMPAT') == 0
    for first = 1, #channels, AT_ONCE do
      local last = math.min(first + AT_ONCE - 1, #channels)
      local found = is_known and redis.pcall('PUBSUB', 'NUMSUB', unpack(channels, first, last))
      is_known = found and not found.err
      for i = first, last do
        local is_heard = may_be_heard(channels[i], 'DEL')
        if is_heard and (not is_known or found[2 * (i - first + 1)] ~= 0) then
          redis.pcall('PUBLISH', channels[i], 'SUCCESS')
        end
      end
    end
  end

  -- Where an open message is (as in order.lua), and whether it was cancelled; nil and false if it is over, or not known. Third,
  -- its status. Changes nothing.
  function lives.place(prefix, message_id)
    local known = redis.call('HMGET', prefix .. 'state:' .. message_id, 'status', 'place', 'cancelled')
    local kept = not known[1] and kept_by_run(prefix, message_id)
    if kept then
      return kept.place, false, 'PENDING'
    elseif not RANK[known[1]] then
      return nil, false, known[1]
    end
    return known[2] or '', known[3] and known[3] ~= '' and known[3], known[1]
  end

  -- A dead letter is sent again, with these fields, by their names: its message begins a new life.
  function lives.revive(prefix, message_id, named, place)
    local claim = named['claim']
    if not claim or not named['data'] or lives.lacks(prefix) then
      return
    end
    local key = prefix .. 'state:' .. message_id
    local known = redis.call('HMGET', key, 'claim', 'version')
    if known[1] then
      if known[1] == claim then
        local changes = { 'status', 'PENDING', 'place', place }
        for _, name in ipairs({ 'attempt', 'count', 'received', 'started', 'ended', 'progress', 'failure', 'reason', 'cancelled' }) do
          changes[#changes + 1] = name
          changes[#changes + 1] = ''
        end
        redis.call('EXPIRE', key, lives.SECONDS)
        change(prefix, message_id, known[2], changes)
      end
      return
    end
    local seconds = string.match(named['headers'] or '', '"actorwork%-result%-ttl": ?([%d.]+)')
    if tonumber(seconds) and redis.call('GET', prefix .. 'claim:' .. message_id) == claim then
      lives.begin(prefix, message_id, claim, whole(math.max(1, seconds * 1000)), whole(now_ms()), place)
    end
  end
end
