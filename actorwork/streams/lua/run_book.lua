-- A run of a workflow as it is stored, and how scripts read and write it. (A part: scripts begin with the parts they need.)
--
--   actorwork:{<home>}:flow:<run>         the run, a hash: secret (`step_claim` in order.lua), status, reason, title, total, open,
--                                         holds, ttl, format (of the nodes that may read its steps, formats.py), started, late (ends
--                                         that came after the end of their step or of the run), ...
--   actorwork:{<home>}:flow:<run>:steps   number -> JSON: name, kind, source, template, ... ; never changed
--   actorwork:{<home>}:flow:<run>:templates   number -> JSON: template and needs of a step that has very many. No script decodes
--                                         it: in `steps`, such a step has `inputs` instead, how many there were in the beginning
--   actorwork:{<home>}:flow:<run>:next    number -> JSON: who waits for it, whether for the result ('r') or outcome ('o'), and 1 if
--                                         as a member of a group, for all of whose members it waits. Those who take outcomes come
--                                         first. If there are many, <number>.1, ... have those beyond the first NEXT.at_once
--   actorwork:{<home>}:flow:<run>:grown   number of a group -> JSON: the steps that were added to it
--   actorwork:{<home>}:flow:<run>:state   s<number>: 1 sent, 2 ended, 3 held; n<number>: needs left; a<number>: attempts
--                                         p<number>: the place of its message, to drop it; c<number>: the run in its place;
--                                         b<number>: bytes of the long ones among its inputs (`inputs.size` in run_messages.lua);
--                                         l<number>: of a step of whose message the run keeps the life (state.lua): '' as long as
--                                         it is open, then JSON of what is known of it besides, by the names of its fields
--   actorwork:{<home>}:flow:<run>:ends    number -> JSON: how, failure, whether caused by another step; not if it is done
--   actorwork:{<home>}:flow:<run>:values  number -> what it returned: JSON as it was settled, never decoded here
--   actorwork:{<home>}:flow:<run>:ready   by number, steps that have all they need and were not sent
--   actorwork:{<home>}:flow:<run>:fails, :held, :asking   by number, steps by which the run fails, that wait for a retry, for a
--                                         signal
--   actorwork:{<home>}:flow:<run>:spread  steps that have ended, and whose dependents do not all know it yet (run_rules.lua)
--   actorwork:{<home>}:flow:<run>:again   number -> 1: the steps that are put back, if not all are (run_retrying.lua)
--   actorwork:{<home>}:flow:<run>:told    page -> the failures that the step for failures gets, if they are very many (`told`)
--   actorwork:{<home>}:flow:<run>:undoes  steps that can be undone; :undo those that are done, in their order
--   actorwork:{<home>}:flow:<run>:asks    name of a signal -> number of its step
--   actorwork:{<home>}:flow:<run>:signals name -> value that came before its step
--   actorwork:{<home>}:flows              the runs of a home, by the time they began
--   actorwork:{<home>}:flows:due          <run>/<number>, <run>/deadline and others, by the time they are due; <run>/gone: the run has
--                                         expired, and is taken out of `flows`
--   actorwork:flow:<run>                  the home of a run; actorwork:flows: all homes
--
-- On a cluster, a run is in the slot of its home; its messages, the runs in the place of its steps, and the last two keys may be in
-- others. What is to be done there goes through the outbox of this slot, and the ends of steps come from the outboxes of theirs
-- (away.lua, effects.lua). So all that joins is still decided in one script, at the home.

local RESULT = 1000000000 -- As in policy/runs/values.py; the message that undoes step n has the number RESULT + 1 + n.
local SENT_AT_ONCE = 500
local NEXT = { at_once = 500, most_pages = 100000 } -- Of the dependents of one step; the former as in streams/plans.py.
local PARKED = 1000000000 -- Added to the scores of those in `ready` that could not be sent: no run has so many steps.
local FEW_AT_ONCE = 4 -- Fields of a hash: to count each down by itself takes less time than to read and write all.
local TRY_AGAIN_MS = 1000
local PAGED = { ':steps', ':templates', ':state', ':next', ':ready', ':undoes', ':asks' } -- What the pages of a large run hold.
-- RETRY: what has failed is put back, to be tried again; nothing is sent meanwhile (run_retrying.lua).
local OPEN = { STARTED = true, PAUSED = true, HELD = true, RETRY = true }
local HOLDING = { failed = true, rejected = true, expired = true, lost = true }
local SUFFIXES = { ':steps', ':templates', ':next', ':state', ':ends', ':values', ':ready', ':fails', ':held', ':asking', ':undo',
  ':undoes', ':asks', ':signals', ':grown', ':spread', ':again', ':told' }

-- What this script may still do for runs, however many there are: how many dependents it looks at, how many steps it sends and ends.
-- The rest is left to the scripts to come: `flows:due` has <run>/more, or <run>/close.
local budget = { looks = SENT_AT_ONCE, sends = SENT_AT_ONCE, closes = 100 }

-- What ends a step, and what starts a run, needs these keys, beside those of its messages: asked before anything is done.
local function needs_of_join(home)
  local prefix = 'actorwork:{' .. home .. '}:'
  return {
    { 'HSET', prefix .. 'flow:', '', '' }, { 'HINCRBY', prefix .. 'flow:', '', 1 }, { 'ZADD', prefix .. 'flows:due', 0, '' },
    { 'ZADD', prefix .. 'flow:', 0, '' }, { 'HDEL', prefix .. 'flow:', '' }, { 'PEXPIRE', prefix .. 'flow:', 1 },
    { 'PEXPIRE', 'actorwork:flow:', 1 },
  }
end

local function needs_of_start()
  return { { 'SET', 'actorwork:flow:', '' }, { 'SADD', 'actorwork:flows', '' } }
end

-- Where a step belongs, from the header of its message: `<home>/<run>`, and its number as text.
local function step_in(flow)
  return string.match(flow, '^(.+)/(%d+)$')
end

local lacks_join

do
  local joins = {} -- By runs: what is lacking to join there, or false.

  -- `of`: `<home>/<run>`, or the whole header of a step.
  function lacks_join(of)
    if joins[of] == nil then
      local home = string.match(of, '^([^/]+)/')
      if home and away.is(home) then
        joins[of] = away.lacks()
      else
        joins[of] = home and lacks('join in ' .. home, needs_of_join, home) or false
      end
    end
    return joins[of]
  end
end

local run_at, run_of

do
  local runs = {} -- Those that this script has looked at.

  function run_at(home, run)
    local at = 'actorwork:{' .. home .. '}:flow:' .. run
    if not runs[at] then
      local known = redis.pcall('HMGET', at, 'status', 'total', 'holds', 'secret', 'ttl', 'format')
      if known.err or not known[1] then
        return nil
      end
      runs[at] = {
        at = at, home = home, run = run, status = known[1], total = tonumber(known[2]), holds = known[3] == '1', secret = known[4] or '',
        ttl = known[5],
        is_new = (known[6] or '') ~= '', -- Of a run that older ones have begun, older nodes may read the steps.
        due = 'actorwork:{' .. home .. '}:flows:due', state = at .. ':state', ready = at .. ':ready',
      }
    end
    return runs[at]
  end

  local found_runs = {} -- The same, by `<home>/<run>`.

  -- The run of that home; or nil and the home, if that is in another slot.
  function run_of(of)
    if not found_runs[of] then
      local home, run = string.match(of, '^([^/]+)/([^/]+)$')
      if home and away.is(home) then
        return nil, home
      end
      found_runs[of] = home and run_at(home, run) or nil
    end
    return found_runs[of]
  end
end

-- Tells those who watch a run that something in it changes, once in a script: they are notified when the script is over.
local function tell_run(r)
  if not r.is_told then
    r.is_told = true
    redis.pcall('PUBLISH', 'actorwork:watch:' .. r.run, '')
  end
end

local function set_status(r, status, reason)
  tell_run(r)
  r.status = status
  redis.call('HSET', r.at, 'status', status, 'reason', reason or '')
end

local function state_of(r, step)
  return tonumber(redis.call('HGET', r.state, 's' .. step) or '0')
end

-- The states of those who wait for a step, as they are stored; false for 0.
local function states_of(r, dependents)
  local found = {}
  for first = 1, #dependents, CHUNK do
    local names = {}
    for i = first, math.min(first + CHUNK - 1, #dependents) do
      names[#names + 1] = 's' .. dependents[i][1]
    end
    for _, state in ipairs(redis.call('HMGET', r.state, unpack(names))) do
      found[#found + 1] = state
    end
  end
  return found
end

local function plan_of(r, step)
  return cjson.decode(redis.call('HGET', r.at .. ':steps', step))
end

local listed = {} -- What this part has of steps; a table, because a script may have no more than 200 local variables.

-- The name of a step, from what is stored of it.
function listed.name(text)
  -- It comes first, and the template of a body may have a place for each of 100,000 members.
  return string.match(text, '^{"name":"([^"\\]*)"') or cjson.decode(text).name
end

local function name_of(r, step)
  return step == RESULT and 'the result' or listed.name(redis.call('HGET', r.at .. ':steps', step))
end

-- The steps that a run lists by their numbers, as `suffix` says: those that failed, are held, or ask. A run that older nodes have
-- begun has sets, which these know.
function listed.add(r, suffix, step)
  if r.is_new then
    redis.call('ZADD', r.at .. suffix, step, step)
  else
    redis.call('SADD', r.at .. suffix, step)
  end
end

function listed.drop(r, suffix, ...)
  redis.call(r.is_new and 'ZREM' or 'SREM', r.at .. suffix, ...)
end

function listed.count(r, suffix)
  return redis.call(r.is_new and 'ZCARD' or 'SCARD', r.at .. suffix)
end

-- The numbers, sorted: all, or the first `most`; of a run of this version also those from the one at place `first` on.
function listed.of(r, suffix, most, first)
  first = first or 0
  local found = r.is_new and redis.call('ZRANGE', r.at .. suffix, first, most and first + most - 1 or -1)
    or redis.call('SMEMBERS', r.at .. suffix)
  for i, number in ipairs(found) do
    found[i] = tonumber(number)
  end
  if not r.is_new then
    table.sort(found)
    return most and { unpack(found, 1, math.min(most, #found)) } or found
  end
  return found
end

local function id_of(r, step, attempt)
  return r.run .. '/' .. step .. (attempt and '.' .. attempt or '')
end

local function attempt_of(r, step)
  return redis.call('HGET', r.state, 'a' .. step)
end

-- Writes fields and their values, or with 'ZADD' scores and their members.
local function write_pairs(key, values, command)
  for first = 1, #values, CHUNK do
    redis.call(command or 'HSET', key, unpack(values, first, math.min(first + CHUNK - 1, #values)))
  end
end

local NONE = {}
local decoded_of

do
  local decoded = {} -- The members of a group all have the same.

  function decoded_of(text)
    if not text then
      return NONE
    end
    if not decoded[text] then
      decoded[text] = cjson.decode(text)
    end
    return decoded[text]
  end
end

-- Who waits for a step; of many, the first.
local function dependents_of(r, step)
  return decoded_of(redis.call('HGET', r.at .. ':next', step))
end

-- Where those are written who wait for a step.
local function next_of(step, page)
  return page == 0 and step or whole(step) .. '.' .. page
end

local function wake(r, member, at)
  redis.call('ZADD', r.due, 'LT', whole(at), r.run .. '/' .. member)
  announce(r.home, at, now_ms())
end
